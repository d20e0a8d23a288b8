"""Prices in USD. The amounts are made up; when and how they are charged follows Plivo's documentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

MESSAGE = Decimal("0.00550")
CALL = Decimal("0.00850")
MIN_RECHARGE = Decimal(25)


@dataclass(frozen=True, slots=True)
class Rental:
    """`set_up` is charged once at purchase, `monthly` on the first of every month."""

    set_up: Decimal
    monthly: Decimal


NUMBERS: Mapping[str, Rental] = MappingProxyType(
    {
        "local": Rental(Decimal(0), Decimal("0.80")),
        "national": Rental(Decimal(1), Decimal("1.50")),
        "mobile": Rental(Decimal(2), Decimal(3)),
        "tollfree": Rental(Decimal(0), Decimal(1)),
    }
)


def usd(amount: Decimal) -> str:
    """Format an amount as Plivo does, with five decimals."""
    return f"{amount:.5f}"
