"""An imitation of Plivo's Subaccount API, as a separate program that shares no code with the worker.

Shared code would make the worker and its test double share their mistakes.
"""

from worker.sandbox.assumptions import Assumptions
from worker.sandbox.billing import Invoice
from worker.sandbox.control import Sandbox
from worker.sandbox.faults import FAULTS, PROFILES, Effect, Fault, Rule, Sight, fault
from worker.sandbox.journal import Entry
from worker.sandbox.records import Subaccount
from worker.sandbox.server import AUTH_ID, AUTH_TOKEN, running_sandbox
from worker.sandbox.store import StoreError

__all__ = [
    "AUTH_ID",
    "AUTH_TOKEN",
    "FAULTS",
    "PROFILES",
    "Assumptions",
    "Effect",
    "Entry",
    "Fault",
    "Invoice",
    "Rule",
    "Sandbox",
    "Sight",
    "StoreError",
    "Subaccount",
    "fault",
    "running_sandbox",
]
