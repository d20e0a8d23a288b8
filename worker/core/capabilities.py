"""The capabilities of a provider, as its adapter declares them.

Decisions depend on these facts and never on the provider's name: a second provider is one more adapter. Every
provider can create, enable, disable and list subaccounts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The differences between providers. The defaults are those of a provider that can do everything.

    `can_rename`: without it a rename changes the department's name on record and in its messages only; the
    subaccount keeps its first name, and the answer is `unchanged` with that reason.
    `can_delete`: without it a removal that would delete disables instead.
    `can_read_token`: the auth token can be read at any time. Without it only the create's response has it:
    credentials are published from that response, a lost token is reported once and not waited for, and
    credentials cannot be issued again.
    `lists_newest_first`: a scan may end at a page that is old enough, and the first page shows new items.
    Without it every scan reads the whole list.
    """

    can_rename: bool = True
    can_delete: bool = True
    can_read_token: bool = True
    lists_newest_first: bool = True


EVERYTHING = Capabilities()
