"""Texts of the command: how to point clients at the sandbox, and the table of assumptions."""

from worker.sandbox.assumptions import switches
from worker.sandbox.control import Sandbox
from worker.sandbox.server import AUTH_TOKEN

_DIRECTIONS = """\
*** THIS IS NOT PLIVO ***
No message is sent, no money is spent, these credentials open nothing else.

listening on {url}, seed {seed}
main account {auth_id}

The worker, in another terminal:

export PLIVO_API_URL={url}
export PLIVO_AUTH_ID={auth_id}
export PLIVO_AUTH_TOKEN={token}

curl:

curl -u {auth_id}:{token} \\
  {url}/v1/Account/{auth_id}/Subaccount/

Node:

new plivo.Client('{auth_id}', '{token}',
  {{url: '{url}/v1/Account/{auth_id}'}})

Python:

import plivo.rest.client as client
for name in [name for name in vars(client) if "_BASE_URI" in name]:
    setattr(client, name, "{url}/v1/Account")

Rules, log, time and reset (see the README):

curl {management_url}/state

Ctrl-C stops it."""


def directions(running: Sandbox) -> str:
    """Return the text printed at the start. It shows only the well-known token, no other."""
    shown = AUTH_TOKEN if running.auth_token == AUTH_TOKEN else "$SANDBOX_AUTH_TOKEN"
    return _DIRECTIONS.format(
        url=running.url,
        auth_id=running.auth_id,
        seed=running.seed,
        token=shown,
        management_url=running.management_url,
    )


def assumptions_table() -> str:
    """Return a paragraph for each assumption: name, default, other values, meaning."""
    return "\n\n".join(f"{each.name}={each.default} ({each.values}): {each.meaning}" for each in switches())
