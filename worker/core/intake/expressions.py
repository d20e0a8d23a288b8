"""JMESPath expressions over `{item, body, headers}`, checked when they are compiled.

The language: https://jmespath.org/specification.html
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath
from jmespath import exceptions, functions
from jmespath.parser import ParsedResult

from contracts.spelling import near_word

ROOTS = ("item", "body", "headers")
LONGEST = 2000
"""The most characters of an expression."""


class BadExpression(ValueError):
    """The expression cannot be compiled, or reads what is not there. The text follows the key's name."""


class Unevaluated(ValueError):
    """The expression failed on a payload. The text names types, never values."""


class _Functions(functions.Functions):
    """JMESPath's own, but the text of null is null: otherwise a missing id becomes the text `null`."""

    @functions.signature({"types": []})
    def _func_to_string(self, value: Any) -> Any:
        return None if value is None else super()._func_to_string(value)  # type: ignore[misc]


_TYPES = {python: words for words, pythons in functions.REVERSE_TYPES_MAP.items() for python in pythons}
_OPTIONS = jmespath.Options(custom_functions=_Functions())


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    `roots`: those of `item`, `body` and `headers` that it reads. `headers`: the names of the headers that it
    reads, in lower case; None if it takes all of them.
    """

    text: str
    roots: frozenset[str] = frozenset()
    headers: frozenset[str] | None = frozenset()
    _compiled: ParsedResult = field(repr=False, compare=False, kw_only=True)

    def value(self, scope: Mapping[str, Any]) -> Any:
        """The value for `{item, body, headers}`; raises `Unevaluated`."""
        try:
            return self._compiled.search(scope, _OPTIONS)
        except exceptions.JMESPathTypeError as error:
            expected = " or ".join(map(str, error.expected_types))
            given = _TYPES.get(error.actual_type, error.actual_type)
            raise Unevaluated(f"{error.function_name}() was given {given}, not {expected}") from None
        except RecursionError:
            raise Unevaluated("the payload is nested too deeply for it") from None
        except (exceptions.JMESPathError, ArithmeticError, TypeError, ValueError, AttributeError):
            raise Unevaluated("it cannot be applied to this payload") from None


def compiled(text: object) -> Expression:
    """Compiles an expression; raises `BadExpression`."""
    if not isinstance(text, str):
        raise BadExpression("must be a JMESPath expression in quotes; a constant is '`42`' or \"'text'\"")
    if len(text) > LONGEST:
        raise BadExpression(f"must have at most {LONGEST:,} characters")
    try:
        parsed = jmespath.compile(text)
    except (exceptions.JMESPathError, ValueError) as error:
        raise BadExpression(f"is no JMESPath expression: {_one_line(error)}") from None
    except RecursionError:
        raise BadExpression("is nested too deeply") from None
    tree = _with_lower_headers(parsed.parsed)
    for name in _functions_in(tree):
        _require_function(name)
    read = list(_paths_from_root(tree))
    for path in read:
        _require_root(path)
    roots = frozenset(path[0] for path in read if path)
    return Expression(
        text,
        roots if () not in read else frozenset(ROOTS),
        _headers_in(read),
        _compiled=ParsedResult(text, tree),
    )


def _with_lower_headers(node: Any) -> Any:
    """The tree with `headers.Name` as `headers.name`: requests have headers under names in lower case."""
    if not isinstance(node, Mapping):
        return node
    children = [_with_lower_headers(child) for child in node["children"]]
    if node["type"] == "subexpression" and children[0].get("value") == "headers":
        name = children[1].get("value")
        children[1] = {**children[1], "value": name.lower()} if isinstance(name, str) else children[1]
    return {**node, "children": children}


def _one_line(error: Exception) -> str:
    """JMESPath draws a caret under the expression; its first line says enough."""
    return str(error).splitlines()[0].rstrip(":").strip() if str(error) else "it cannot be read"


def _require_function(name: str) -> None:
    known = _Functions.FUNCTION_TABLE
    if name not in known:
        meant = near_word(name, known)
        hint = f"; did you mean {meant}()?" if meant else f"; there are {', '.join(sorted(known))}"
        raise BadExpression(f"calls {name}(), which is no function of JMESPath{hint}")


def _require_root(path: tuple[str, ...]) -> None:
    if path and path[0] in {"true", "false"}:
        raise BadExpression(f"has {path[0]}, which JMESPath takes for a member's name: write `{path[0]}`")
    if path and path[0] not in {*ROOTS, "null"}:  # nothing is called null, so the word works as it looks
        raise BadExpression(
            f"begins with {path[0]}, but payloads are under item, body and headers: write item.{path[0]}"
        )


def _headers_in(read: list[tuple[str, ...]]) -> frozenset[str] | None:
    """The headers that paths from the root name; None if one reads them all, as `headers` or `@` does."""
    if any(path in {(), ("headers",)} for path in read):
        return None
    return frozenset(path[1].lower() for path in read if path[0] == "headers")


def _functions_in(node: Mapping[str, Any]) -> Iterator[str]:
    if node["type"] == "function_expression":
        yield node["value"]
    for child in _children(node):
        yield from _functions_in(child)


def _children(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes below; those of a slice are its bounds."""
    return [child for child in node["children"] if isinstance(child, Mapping)]


_FROM_LEFT = frozenset(
    {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection"}
    | {"flatten"}
)
"""Nodes whose first child is applied to the node's own input, and the others to the result of the first."""


def _paths_from_root(node: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The first two names of each path that is applied to the root; `()` for the root as a whole."""
    children = _children(node)
    match node["type"]:
        case "field":
            yield (node["value"],)
        case "current" | "identity":
            yield ()
        case "literal" | "expref" | "slice" | "index":
            return
        case "subexpression" if children[0]["type"] == "field" and children[1]["type"] == "field":
            yield (children[0]["value"], children[1]["value"])
        case kind if kind in _FROM_LEFT:
            yield from _paths_from_root(children[0])
        case _:
            for child in children:
                yield from _paths_from_root(child)
