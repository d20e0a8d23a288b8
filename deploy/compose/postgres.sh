#!/bin/sh
# Run once by the image of PostgreSQL, in an empty volume: the worker's role, which owns its database and no other.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$(cat /run/secrets/ledger_password)" <<'SQL'
CREATE ROLE provisioner LOGIN PASSWORD :'password';
CREATE DATABASE provisioner OWNER provisioner ENCODING 'UTF8' TEMPLATE template0;
SQL
