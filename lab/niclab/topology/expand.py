"""Ranges in topology files: `node[1-8]` as a mapping key, `10.244.[1-8].0/24 via 10.0.0.[1-8]` in a list.

A key's range makes one entry per number, with `{n}` in its keys and values replaced by the number; a list entry's
ranges advance together, one entry per step. Eight nodes are then as many lines as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from niclab.topology.yamlfile import Field

_RANGE = re.compile(r"\[([0-9]{1,9})-([0-9]{1,9})\]")
_NUMBER = "{n}"
_LIMIT = 4096
_TOTAL_LIMIT = 100_000


class RangeError(ValueError):
    """A range that cannot be expanded; `path` is where it stands in the source, `fix` how to write it."""

    def __init__(self, path: Field, why: str, fix: str = "write node[1-8], the lower number first") -> None:
        self.path = path
        self.fix = fix
        super().__init__(why)


def expand(data: Any) -> tuple[Any, dict[Field, Field]]:
    """The data with every range written out, and for each path in it the path in the source. Raises RangeError."""
    return (expansion := _Expansion()).walk(data, (), (), None), expansion.origin


class _Expansion:
    """One walk over the data. `number` is that of the range the walk is inside of: the outermost one."""

    def __init__(self) -> None:
        self.origin: dict[Field, Field] = {}

    def walk(self, value: Any, here: Field, there: Field, number: str | None) -> Any:
        self.origin[here] = there
        if len(self.origin) > _TOTAL_LIMIT:
            raise RangeError(there, f"its ranges make more than {_TOTAL_LIMIT} values", "use shorter ranges")
        if isinstance(value, dict):
            return self._mapping(value, here, there, number)
        if isinstance(value, list):
            return self._list(value, here, there, number)
        return _substituted(value, there, number)

    def _mapping(self, value: dict[Any, Any], here: Field, there: Field, number: str | None) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, item in value.items():
            source = (*there, key)
            for name, inner in _names(_substituted(key, source, number), source):
                if name in result:
                    raise RangeError(source, f"{name!r} is there twice", "give each entry its own name")
                result[name] = self.walk(item, (*here, name), source, number or inner)
        return result

    def _list(self, value: list[Any], here: Field, there: Field, number: str | None) -> list[Any]:
        items: list[Any] = []
        for index, item in enumerate(value):
            source = (*there, index)
            many = isinstance(item, str) and _RANGE.search(item)
            for entry in _steps(_substituted(item, source, number), source) if many else [item]:
                items.append(self.walk(entry, (*here, len(items)), source, number))
        return items


def _names(key: Any, path: Field) -> Iterator[tuple[Any, str | None]]:
    """The keys that one key stands for, each with the number that `{n}` becomes below it."""
    first = _RANGE.search(key) if isinstance(key, str) else None
    if first is None:
        yield key, None
        return
    for step, name in enumerate(_steps(key, path)):
        yield name, str(int(first[1]) + step)


def _steps(text: str, path: Field) -> list[str]:
    spans = [(int(low), int(high)) for low, high in _RANGE.findall(text)]
    lengths = [high - low + 1 for low, high in spans]
    if min(lengths) < 1:
        raise RangeError(path, f"a range of {text!r} runs backwards")
    if len(set(lengths)) > 1:
        raise RangeError(
            path, f"the ranges of {text!r} differ in length", "ranges of one line advance together: make them equal"
        )
    if lengths[0] > _LIMIT:
        raise RangeError(path, f"{text!r} makes {lengths[0]} entries, more than {_LIMIT}", "use a shorter range")
    return [_RANGE.sub(partial(_number, step), text) for step in range(lengths[0])]


def _number(step: int, span: re.Match[str]) -> str:
    """A range's number at this step; `node[01-12]` keeps its zeros."""
    number = str(int(span[1]) + step)
    return number.zfill(len(span[1])) if span[1].startswith("0") else number


def _substituted(value: Any, path: Field, number: str | None) -> Any:
    if not isinstance(value, str) or _NUMBER not in value:
        return value
    if number is None:
        raise RangeError(
            path, f"{value!r} has {_NUMBER}, which is a number only below a key such as node[1-8]", "write the number"
        )
    return value.replace(_NUMBER, number)
