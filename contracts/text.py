r"""One spelling for each id and name, and the sets of characters that the rules are about.

The sets are written out, because the tables of Python's `unicodedata` and of its `re` change with its
version. They are those of Unicode 18: https://www.unicode.org/Public/18.0.0/ucd/. A pattern made of them
means the same in Python, in ECMAScript and in Rust: `\uXXXX` up to U+FFFF, and the character itself above.
NFC is Python's: a character that is assigned keeps its composition in every version of Unicode.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal

IDENTIFIER_LENGTH = 128
NAME_LENGTH = 256
ATTRIBUTE_LENGTH = 1024

Ranges = tuple[tuple[int, int], ...]

_WHITE_SPACE: Ranges = (
    *((0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
)
_CONTROL: Ranges = ((0x0, 0x1F), (0x7F, 0x9F))
_FORMAT: Ranges = (
    *((0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891)),
    *((0x8E2, 0x8E2), (0x180E, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2064)),
    *((0x2066, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD)),
    *((0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0001, 0xE0001), (0xE0020, 0xE007F)),
)
_SURROGATE: Ranges = ((0xD800, 0xDFFF),)
# Default_Ignorable_Code_Point, other characters without a glyph (interlinear annotation, joiners of
# hieroglyphs), and two blank ones: BRAILLE PATTERN BLANK, MUSICAL SYMBOL NULL NOTEHEAD.
_INVISIBLE: Ranges = (
    *_WHITE_SPACE,
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x13430, 0x1343F)),
    *((0x1BCA0, 0x1BCA3), (0x1D159, 0x1D159), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
# Contains every character that NFC replaces or joins to another one. Text without them has the length that it
# has in NFC.
_CHANGED_BY_NFC: Ranges = (
    *((0x300, 0x374), (0x37E, 0x387), (0x5B4, 0x5C2), (0x653, 0x655), (0x93C, 0xDDF), (0xF43, 0xFB9)),
    *((0x102E, 0x102E), (0x1161, 0x11C2), (0x1B35, 0x1B35), (0x1F71, 0x1FFD), (0x2000, 0x2001)),
    *((0x2126, 0x212B), (0x2329, 0x232A), (0x2ADC, 0x2ADC), (0x3099, 0x309A), (0xF900, 0xFB4E)),
    *((0x110BA, 0x11930), (0x1611E, 0x16D67), (0x1D15E, 0x1D1C0), (0x2F800, 0x2FA1D)),
)


def _written(ranges: Iterable[tuple[int, int]]) -> str:
    """The ranges as the inside of a character class."""
    return "".join(
        _escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}" for first, last in ranges
    )


def _escaped(point: int) -> str:
    return f"\\u{point:04x}" if point <= 0xFFFF else chr(point)  # noqa: PLR2004 - the end of the BMP


def _all_but(*excluded: Ranges) -> Iterator[tuple[int, int]]:
    start = 0
    for first, last in sorted(each for ranges in excluded for each in ranges):
        if start < first:
            yield start, first - 1
        start = max(start, last + 1)
    yield start, sys.maxunicode


# Python's and ECMAScript's `$` differ: Python's also matches before a last line break.
END = r"(?!\n)$"

WHITE_SPACE = f"[{_written(_WHITE_SPACE)}]"
VISIBLE = f"[{_written(_all_but(_INVISIBLE, _CONTROL, _SURROGATE))}]"
CHANGED_BY_NFC = f"[{_written(_CHANGED_BY_NFC)}]"
_NO_SPACE = f"[^{_written(_WHITE_SPACE)}]"
IN_IDENTIFIERS = f"[{_written(_all_but(_CONTROL, _FORMAT, _SURROGATE))}]"
ATTRIBUTE = f"^[{_written(_all_but(_CONTROL, _SURROGATE))}]*{END}"
IDENTIFIER = f"^{WHITE_SPACE}*{IN_IDENTIFIERS}*{WHITE_SPACE}*$"
SHORT_IDENTIFIER = (
    rf"^{WHITE_SPACE}*{_NO_SPACE}(?:[\s\S]{{0,{IDENTIFIER_LENGTH - 2}}}{_NO_SPACE})?{WHITE_SPACE}*$"
)
NAME = f"^[{_written(((0x9, 0xD), (0x85, 0x85), *_all_but(_CONTROL, _SURROGATE)))}]*$"
SHORT_NAME = f"^{WHITE_SPACE}*{_NO_SPACE}(?:{WHITE_SPACE}*{_NO_SPACE}){{0,{NAME_LENGTH - 1}}}{WHITE_SPACE}*$"

_SPACE = "".join(chr(point) for first, last in _WHITE_SPACE for point in range(first, last + 1))
_SPACES = re.compile(f"{WHITE_SPACE}+")
_NOT_IN_IDENTIFIERS = re.compile(f"[{_written((*_CONTROL, *_FORMAT, *_SURROGATE))}]")
_NOT_IN_NAMES = re.compile(f"[{_written((*_CONTROL, *_SURROGATE))}]")
_VISIBLE = re.compile(VISIBLE)

# Canonical composition (Unicode Annex 15) joins at most four code points into one: a longer text cannot come
# down to the limit. Normalising takes quadratic time in a run of combining marks, so its input is bounded.
_LONGEST_COMPOSED = 4


def is_plain(text: str) -> bool:
    """Whether the text has no control character (C0, DEL or C1) and no lone surrogate."""
    return _NOT_IN_NAMES.search(text) is None


def plain(value: object) -> str:
    """Returns the value if it is text of plain characters, of any length; raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic collects ValueErrors
    if not is_plain(value):
        raise ValueError("must not contain control or surrogate characters")
    return value


def identifier(value: object, longest: int = IDENTIFIER_LENGTH) -> str:
    """Returns the one spelling of an id: an integer as decimal text, trimmed, in NFC; raises `ValueError`."""
    text = value if isinstance(value, str) else integer_text(value)
    if text is None:
        raise ValueError("must be text or an integer")
    text = text.strip(_SPACE)
    if not text:
        raise ValueError("must not be empty")
    if _NOT_IN_IDENTIFIERS.search(text):
        raise ValueError("must not contain control, format or surrogate characters")
    return _composed(text, longest)


def name(value: object) -> str:
    """Returns a name trimmed, with each run of white space as one blank, in NFC; raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic collects ValueErrors
    text = plain(_SPACES.sub(" ", value).strip(" "))
    if not text:
        raise ValueError("must not be empty")
    if not _VISIBLE.search(text):
        raise ValueError("must contain a visible character")
    return _composed(text, NAME_LENGTH)


def attribute(value: object) -> str:
    """Returns a required CloudEvents attribute: text, or a number as text; raises `ValueError`."""
    text = value if isinstance(value, str) else number_text(value)
    if text is None:
        raise ValueError("must be text or a number")
    return text_attribute(text)


def text_attribute(value: object) -> str:
    """Returns a required CloudEvents attribute that is no number; raises `ValueError`."""
    text = plain(value)
    if not text:
        raise ValueError("must not be empty")
    if len(text) > ATTRIBUTE_LENGTH:
        raise ValueError(f"must have at most {ATTRIBUTE_LENGTH} characters")
    return text


def integer(value: object) -> int | None:
    """Returns a whole number, however it is written: `7`, `7.0`, `7e0`; None for any other value."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case Decimal() if value.is_finite() and value == value.to_integral_value():
            return int(value)
        case _:
            return None


def integer_text(value: object) -> str | None:
    """Returns a whole number of at most `IDENTIFIER_LENGTH` characters as text; None for any other value."""
    whole = integer(value)
    if whole is None or abs(whole) >= 10**IDENTIFIER_LENGTH:
        return None
    text = str(whole)
    return text if len(text) <= IDENTIFIER_LENGTH else None


def number_text(value: object) -> str | None:
    """Returns a number as text, a whole one without fraction or exponent; None for any other value."""
    match value:
        case Decimal() if not value.is_finite():
            return None
        case float() | Decimal() if integer(value) is None and abs(value) < 10**IDENTIFIER_LENGTH:
            return str(value)
        case _:
            return integer_text(value)


def _composed(text: str, most: int) -> str:
    composed = unicodedata.normalize("NFC", text) if len(text) <= _LONGEST_COMPOSED * most else text
    if len(composed) > most:
        raise ValueError(f"must have at most {most} characters")
    return composed
