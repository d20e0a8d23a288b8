"""Reads YAML as people mean it: the core schema of YAML 1.2.

PyYAML follows YAML 1.1, where `no` is false, `12:30` is 750, and a date is no text. Here words, times and
dates stay text: https://yaml.org/spec/1.2.2/#103-core-schema
"""

import re
from typing import Any

import yaml

_NULL = (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""])
_BOOL = (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF"))
_INT = (re.compile(r"[-+]?[0-9]+"), list("-+0123456789"))
_FLOAT = (
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"),
    list("-+0123456789."),
)


class NotYaml(ValueError):
    """The text is no YAML document. The message says where, and quotes nothing of it."""


class _Loader(yaml.SafeLoader):
    """Lets no key stand twice: one of the two values would be lost in silence."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as the base

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the base's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[:40]} stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


for _tag, (_pattern, _firsts) in {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), _firsts
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def document_of(text: str) -> Any:
    """The document in the text; raises `NotYaml`."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise NotYaml(f"{place}{error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise NotYaml("not YAML") from None
