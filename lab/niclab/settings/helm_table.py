"""The table between Helm values and agent flags, in both directions.

From the chart's own template (install/kubernetes/cilium/templates/cilium-configmap.yaml, charts 1.12 to 1.21). What the
chart computes from several values is not in the table: see `niclab.settings.helm`.
"""

from __future__ import annotations

import json
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from niclab.settings.flags import data_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

Form = Literal["text", "spaces", "commas", "json", "switch"]

_FORMS: Mapping[str, Form] = MappingProxyType(
    {"text": "text", "spaces": "spaces", "commas": "commas", "json": "json", "switch": "switch"}
)

# The chart writes these even when they are empty, and nothing where they are 0.
_MAY_BE_EMPTY = frozenset({"devices"})
_ZERO_IS_UNSET = frozenset({"mtu", "tunnel-port"})


class Row(NamedTuple):
    """One Helm value, the flag it becomes, the form a list takes there, and whether it is only read."""

    path: tuple[str, ...]
    flag: str
    form: Form
    legacy: bool


@cache
def rows() -> Mapping[str, Row]:
    """Every row by its dotted path."""
    by_path: dict[str, Row] = {}
    for line in data_lines("helm-flags.txt"):
        path, flag, form, *legacy = line.split()
        by_path[path] = Row(tuple(path.split(".")), flag, _FORMS[form], bool(legacy))
    return MappingProxyType(by_path)


@cache
def row_of_flag() -> Mapping[str, Row]:
    """The row to write a flag by."""
    return MappingProxyType({row.flag: row for row in rows().values() if not row.legacy})


@cache
def known_paths() -> frozenset[str]:
    """Every Helm value some chart has: all of the first level, and the second where agent flags come from it."""
    dotted = {".".join(row.path[:depth]) for row in rows().values() for depth in range(1, len(row.path) + 1)}
    return frozenset(data_lines("helm-paths.txt")) | dotted


@cache
def branches() -> frozenset[str]:
    """The values of the first level that are mappings with something for the agent in them."""
    return frozenset(path.split(".")[0] for path in known_paths() if "." in path)


def flag_of(path: str) -> str | None:
    """The agent's flag for a dotted Helm value, if it is one of the table."""
    row = rows().get(path)
    return row.flag if row else None


def read(row: Row, value: Any) -> str | None:
    """What the chart writes for a value, None where it writes nothing; TypeError where the value has no such form."""
    if value is None:
        return None
    if isinstance(value, list):
        if row.form == "json":
            return json.dumps(value, separators=(",", ":"))
        if any(isinstance(part, (list, dict)) for part in value):
            raise TypeError("a list of plain values is wanted")
        if not value and row.flag not in _MAY_BE_EMPTY:
            return None
        # Of the forms the chart refuses, a list where it wants text, commas are what the agent reads.
        return (" " if row.form == "spaces" else ",").join(scalar(part) for part in value)
    if isinstance(value, dict):
        if row.form != "json":
            raise TypeError("a plain value is wanted, not a mapping")
        return json.dumps(value, separators=(",", ":")) if value else None
    text = scalar(value)
    if row.form == "switch" and text == "false":
        return None
    if (text == "" and row.flag not in _MAY_BE_EMPTY) or (text == "0" and row.flag in _ZERO_IS_UNSET):
        return None
    return text


def written(row: Row, text: str) -> Any:
    """A value that reads back as this text."""
    if row.form == "json":
        try:
            return json.loads(text)
        except ValueError:
            return text
    if text in ("true", "false"):
        return text == "true"
    if row.flag == "devices" and text:
        separator = "," if "," in text else " "
        parts = text.split(separator)
        return parts if separator == " " and all(parts) else text
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text


def scalar(value: Any) -> str:
    """A YAML scalar as the chart's `quote` writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
