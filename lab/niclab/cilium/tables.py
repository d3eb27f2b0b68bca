"""The model's tables of words (data/*.txt), in paragraphs: read when first asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from niclab.net.route import Why

_VALUE = re.compile(r"<(\w+)>")


@cache
def paragraphs(name: str) -> Mapping[str, Sequence[str]]:
    """First line → the others, of every paragraph after the head."""
    text = resources.files("niclab.cilium").joinpath("data", f"{name}.txt").read_text(encoding="utf-8")
    return {first: rest for first, *rest in map(str.splitlines, text.split("\n\n")[1:])}


@cache
def _reasons() -> Mapping[str, Why]:
    return {rule: Why(rule, *rest) for rule, rest in paragraphs("reasons").items()}


def reason(rule: str, **values: object) -> Why:
    """A reason of data/reasons.txt. `values` are put into its words and its source."""
    why = _reasons()[rule]
    if not values:
        return why
    words, source = (_VALUE.sub(lambda match: str(values[match[1]]), text) for text in (why.words, why.source))
    return Why(rule, words, source)
