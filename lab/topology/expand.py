"""Ranges in topology files: `node[1-8]` as a mapping key, `10.244.[1-8].0/24 via 10.0.0.[1-8]` in a list.

A key's range makes one entry per number, with `{n}` in its values replaced by the number; a list entry's ranges
advance together, one entry per step. Eight nodes are then as many lines as one.
"""

from __future__ import annotations

import re
from typing import Any

Path = tuple[str | int, ...]

_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_LIMIT = 4096


class RangeError(ValueError):
    """A range that cannot be expanded; `path` is where it stands in the source."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(why)


def _steps(text: str, path: Path) -> list[str]:
    spans = [(int(low), int(high)) for low, high in _RANGE.findall(text)]
    lengths = {high - low + 1 for low, high in spans}
    if len(lengths) > 1 or any(high < low for low, high in spans):
        raise RangeError(path, f"the ranges of {text!r} are empty or of different lengths")
    length = lengths.pop()
    if length > _LIMIT:
        raise RangeError(path, f"{text!r} makes {length} entries, more than {_LIMIT}")
    found = []
    for step in range(length):
        numbers = iter(low + step for low, _ in spans)
        found.append(_RANGE.sub(lambda _, numbers=numbers: str(next(numbers)), text))
    return found


def _substituted(value: Any, number: str) -> Any:
    if isinstance(value, str):
        return value.replace("{n}", number)
    if isinstance(value, list):
        return [_substituted(item, number) for item in value]
    if isinstance(value, dict):
        return {_substituted(key, number): _substituted(item, number) for key, item in value.items()}
    return value


def expand(data: Any, source: Path = ()) -> tuple[Any, dict[Path, Path]]:
    """The data with every range written out, and for each path that moved, where it came from.

    Raises RangeError.
    """
    origin: dict[Path, Path] = {}

    def walk(value: Any, here: Path, there: Path) -> Any:
        origin[here] = there
        if isinstance(value, dict):
            result: dict[Any, Any] = {}
            for key, item in value.items():
                if isinstance(key, str) and _RANGE.search(key):
                    names = _steps(key, (*there, key))
                    numbers = _steps(_RANGE.search(key)[0], (*there, key))  # type: ignore[index]  # searched above
                    for name, number in zip(names, numbers, strict=True):
                        if name in value or name in result:
                            raise RangeError((*there, key), f"{name!r} is there twice")
                        result[name] = walk(_substituted(item, number), (*here, name), (*there, key))
                else:
                    result[key] = walk(item, (*here, key), (*there, key))
            return result
        if isinstance(value, list):
            items: list[Any] = []
            for index, item in enumerate(value):
                many = isinstance(item, str) and _RANGE.search(item)
                for one in _steps(item, (*there, index)) if many else [item]:
                    items.append(walk(one, (*here, len(items)), (*there, index)))
            return items
        return value

    return walk(data, (), source), origin
