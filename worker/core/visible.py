"""Text from outside, made safe to show: nothing in it steers a terminal, turns text or hides."""

import re
import unicodedata

_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Characters that show nothing although Unicode does not count them as format characters:
DerivedCoreProperties.txt, Default_Ignorable_Code_Point, and the blank Braille pattern."""


def visible(text: str) -> str:
    """Escapes characters that steer a terminal, turn the direction of text, or show nothing.

    Unicode's categories Cc, Cf, Cs, Zl and Zp, and its other default-ignorable characters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if is_odd(char) else char for char in text)


def is_odd(char: str) -> bool:
    """Whether `visible` escapes the character."""
    return unicodedata.category(char) in _ESCAPED_CATEGORIES or _IGNORABLE.match(char) is not None
