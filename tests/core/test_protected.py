"""Which departments are protected by a list of names."""

import pytest

from worker.core.model.departments import Department
from worker.core.protected import NOBODY_PROTECTED, Protected


@pytest.mark.parametrize(
    ("pattern", "tenant", "id_", "includes"),
    [
        ("sales", "acme", "sales", True),
        ("sales", "globex", "sales", True),
        ("sales", "acme", "sales-emea", False),
        ("sales", "sales", "hr", False),
        ("sales", "acme", "Sales", False),
        ("acme/sales", "acme", "sales", True),
        ("acme/sales", "globex", "sales", False),
        ("acme/sales", "globex", "acme/sales", True),
        ("sales*", "acme", "sales", True),
        ("sales*", "acme", "sales-emea", True),
        ("sales*", "acme", "presales", False),
        ("sales*", "sales", "hr", False),
        ("acme/*", "acme", "hr", True),
        ("acme/*", "acme-emea", "hr", False),
        ("acme/s*", "acme", "sales", True),
        ("acme/s*", "acme", "hr", False),
        ("acme*", "acme", "hr", False),
        ("*", "acme", "hr", True),
        ("s*es", "acme", "sales", False),
        ("s*es", "acme", "s*es", True),
    ],
)
def test_a_department_is_named_by_id_or_by_tenant_and_id(pattern, tenant, id_, includes):
    assert Protected(("other", pattern)).includes(Department(tenant, id_)) is includes


def test_nobody_is_protected_by_default():
    assert not NOBODY_PROTECTED.includes(Department("acme", "sales"))
