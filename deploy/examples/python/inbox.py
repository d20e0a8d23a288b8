"""Keeps results and credentials in SQLite: each message once, of credentials the greatest generation.

SQLite stands in for your database, and for the secret store that the tokens belong in.
"""

import json
import os
import sqlite3
from pathlib import Path

from open_sealed import open_sealed

TABLES = """
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS outcomes (source TEXT, event_id TEXT, outcome TEXT, code TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS credentials (
    tenant TEXT, department_id TEXT, generation INTEGER, auth_id TEXT, auth_token TEXT,
    PRIMARY KEY (tenant, department_id)
);
"""
NEWEST = (
    "INSERT INTO credentials VALUES (:tenant, :department_id, :generation, :auth_id, :auth_token)"
    " ON CONFLICT DO UPDATE SET generation = excluded.generation, auth_id = excluded.auth_id,"
    " auth_token = excluded.auth_token WHERE excluded.generation >= generation"
)


class Inbox:
    """A database of what was received. After `keep` has returned, the message may be acked."""

    def __init__(self, file: str) -> None:
        os.umask(0o077)
        self._database = sqlite3.connect(file)
        self._database.executescript(TABLES)

    def keep(self, body: bytes) -> str:
        """Stores a message durably, unless its id was seen before. Returns what was done, in a line."""
        message = json.loads(body)
        with self._database:  # one transaction: the id is on record only with what the message says
            try:
                self._database.execute("INSERT INTO seen VALUES (?)", (message["id"],))
            except sqlite3.IntegrityError:
                return f"duplicate {message['id']}"
            if message["type"].startswith("subaccount.credentials."):
                return self._keep_credentials(message, body)
            return self._keep_outcome(message["data"])

    def _keep_credentials(self, message: dict, body: bytes) -> str:
        data = message["data"]
        if message.get("datacontenttype") == "application/jose":
            data = _opened(body)
        kept = self._database.execute(NEWEST, data).rowcount
        what = "stored" if kept else "dropped older"
        return f"{what} credentials of {data['department_id']}, generation {data['generation']}"

    def _keep_outcome(self, data: dict) -> str:
        event = data["event"] or {"source": None, "id": None}
        row = (event["source"], event["id"], data["outcome"], data["code"], data.get("reason"))
        self._database.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", row)
        return f"stored {data['outcome']} of {event['id']}"


def _opened(body: bytes) -> dict:
    """The content of sealed credentials. Raises ValueError if they are not genuine, or not for us."""
    ours, workers = (
        json.loads(Path(os.environ[name]).read_text()) for name in ("PRIVATE_KEYS", "WORKER_KEYS")
    )
    return open_sealed(body, ours, workers, os.environ["RECIPIENT"])
