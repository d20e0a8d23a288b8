"""From the bytes of a body to JSON: compression, character encoding, and why it is no JSON."""

import json
import re
import zlib
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

MAX_DECODED_BYTES = 1 << 20
MAX_DEPTH = 200
"""Levels of arrays and objects. `from_json` stops there too, except that it counts no empty ones."""
MAX_DIGITS = 4300

COMPRESSION = "compression"
"""The header in which kombu names a compression; its `application/x-gzip` is zlib."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_MAX_MEMBERS = 100  # each is looked at with all that follows, so their number must be bounded
_COMPRESSIONS = frozenset(
    {"gzip", "x-gzip", "deflate", "zlib", "application/x-gzip", "application/gzip", "application/zlib"}
)
# Values that clients set as content-encoding although they name no compression.
_NO_COMPRESSION = re.compile(
    r"|identity|none|binary|[78]bit|(us-)?ascii|utf-?(8|16|32)(-?[lb]e)?|iso-?8859-?\d+|latin-?1"
    r"|(windows-|cp)125\d"
)
_SHOWABLE = re.compile(r"[a-z0-9][a-z0-9.+/_-]{0,39}")
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_SECTION = b"\x00\x53"
_SECTION_KINDS = range(0x70, 0x79)
_VALUE_LENGTHS = {0xA0: 1, 0xA1: 1, 0xB0: 4, 0xB1: 4}


class Unreadable(ValueError):
    """The body is no JSON. The text says why, and never repeats the payload."""


def json_in(body: bytes, content_encoding: str | None, compression: object) -> Any:
    """Decodes a body; raises `Unreadable`.

    `content_encoding` is the property, `compression` the header that kombu sets. Each key has its last value,
    as in other readers of JSON. Numbers that a double cannot hold are infinite.
    """
    for field, encoding in _encodings(body, content_encoding, compression):
        body = _decompressed(body, f"{field} {encoding}")
    return json_of(body)


def json_of(text: bytes) -> Any:
    """Decodes JSON in UTF-8, with or without a byte order mark; raises `Unreadable`."""
    try:
        value = from_json(text.removeprefix(_BOM), allow_inf_nan=False)
    except ValueError as error:
        value = _with_lone_surrogates(text, str(error))
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise Unreadable(_TOO_DEEP)
    return value


def _encodings(body: bytes, content_encoding: str | None, compression: object) -> list[tuple[str, str]]:
    """The compressions to undo, the last one applied first, each with the field that names it."""
    if content_encoding is None and compression is None:
        return []
    named = [("content-encoding", each.strip()) for each in (content_encoding or "").split(",")]
    if isinstance(compression, str) and not _looks_like_json(body):
        named.insert(0, (COMPRESSION, compression))
    applied = [(field, each.lower()) for field, each in named if not _NO_COMPRESSION.fullmatch(each.lower())]
    for field, encoding in applied:
        if encoding not in _COMPRESSIONS:
            shown = f" {encoding}" if _SHOWABLE.fullmatch(encoding) else ""
            raise Unreadable(f"{field}{shown}: only gzip and deflate are read")
    return applied[::-1]


def _looks_like_json(body: bytes) -> bool:
    return body.removeprefix(_BOM).lstrip()[:1] in {b"{", b"["}


def _decompressed(body: bytes, named: str) -> bytes:
    """Decodes gzip, zlib or raw deflate. Some clients only claim it: JSON is left as it is."""
    plain = _looks_like_json(body)
    for window in (_RAW,) if plain else (_GZIP_OR_ZLIB, _RAW):  # JSON begins like neither gzip nor zlib
        with suppress(zlib.error):
            return _inflated(body, window)
    if plain:
        return body
    raise Unreadable(f"{named}: the body cannot be decoded")


def _inflated(body: bytes, window: int) -> bytes:
    """Decodes one stream, or several gzip members; raises `zlib.error`, or `Unreadable` if it is too long."""
    parts: list[bytes] = []
    size = 0
    while (body or not parts) and len(parts) < _MAX_MEMBERS:
        stream = zlib.decompressobj(window)
        part = stream.decompress(body, MAX_DECODED_BYTES - size + 1)
        size += len(part)
        if size > MAX_DECODED_BYTES:
            raise Unreadable(f"body: more than {MAX_DECODED_BYTES:,} bytes once decoded")
        if not stream.eof:
            raise zlib.error
        parts.append(part)
        body = stream.unused_data
    if body:
        raise zlib.error
    return b"".join(parts)


def _with_lone_surrogates(text: bytes, error: str) -> Any:
    """Decodes JSON with escapes of lone surrogates, which `from_json` refuses: the fields judge them."""
    if "escape" not in error and "surrogate" not in error:
        raise Unreadable(_why_not(text, error))
    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=_refused)
    except (ValueError, RecursionError):
        raise Unreadable(_why_not(text, error)) from None


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _why_not(text: bytes, error: str) -> str:
    if not text.removeprefix(_BOM).strip():
        return "empty"
    if _is_amqp_1_0(text):
        return "an AMQP 1.0 value or sequence; publish the event as a data section (bytes)"
    if text.startswith(_GZIP_MAGIC):
        return "compressed, but content-encoding does not say gzip"
    encoding = json.detect_encoding(text)
    if encoding.startswith(("utf-16", "utf-32")):
        return f"{encoding[:6].upper()}, not UTF-8"
    try:
        text.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if "recursion" in error:
        return _TOO_DEEP
    if "number out of range" in error:
        return f"a number has more than {MAX_DIGITS:,} digits"
    return f"not JSON ({error})"


def _is_amqp_1_0(text: bytes) -> bool:
    """Whether the text is an encoded section of AMQP 1.0, or a string or binary value of that many bytes.

    RabbitMQ passes sections other than data on as they are.
    https://github.com/rabbitmq/rabbitmq-server/blob/v3.10.x/deps/rabbitmq_amqp1_0/README.md
    """
    if text[:2] == _SECTION and len(text) > len(_SECTION) and text[2] in _SECTION_KINDS:
        return True
    size = _VALUE_LENGTHS.get(text[0], 0)
    return size > 0 and int.from_bytes(text[1 : 1 + size]) == len(text) - 1 - size
