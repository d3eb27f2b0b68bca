"""What is wrong with a topology, before it is known where in a file it stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from niclab.topology.yamlfile import Field

_MANY = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """`path` leads to the field in the topology, with every range written out."""

    path: Field
    why: str
    fix: str


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known word, else all of them, else the first few."""
    choices = sorted(set(known))
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if not choices:
        return "there is none to choose from"
    more = f", … ({len(choices)} in all)" if len(choices) > _MANY else ""
    return f"use one of {', '.join(choices[:_MANY])}{more}"
