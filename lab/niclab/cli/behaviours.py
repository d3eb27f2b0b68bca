"""`niclab behaviours`: what differs between Cilium versions for a node's NICs, from the model's one table."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from niclab.cilium import version
from niclab.cilium.version import VERSIONS, Behaviour, Version, modelled_version
from niclab.report.matrix import table

_INTRODUCTION = f"""\
# What differs between Cilium versions

What the model of Cilium {VERSIONS[0]} to {VERSIONS[-1]} knows that changes for a node's NICs.
`niclab behaviours -o markdown` generates this page; `niclab behaviours --from 1.18 --to 1.20` prints what an upgrade
changes.

*Read in source* means the sources of 1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 (2026-07-07) and 1.21 (2026-08-05).
"""


def run(options: argparse.Namespace) -> int:
    """Exit 0. Raises InputError for a version that the model does not know."""
    before = modelled_version(options.before, "--from") if options.before else VERSIONS[0]
    after = modelled_version(options.after, "--to") if options.after else VERSIONS[-1]
    span = (before, after) if options.before or options.after else None
    behaviours = version.changes(*span) if span else tuple(version.behaviours().values())
    if options.output == "json":
        json.dump(_document(behaviours, span), sys.stdout, indent=2)
        print()
    elif options.output == "markdown":
        sys.stdout.write(markdown(behaviours, span))
    else:
        _print(behaviours, span)
    return 0


Span = tuple[Version, Version]


def _document(behaviours: Sequence[Behaviour], span: Span | None) -> dict[str, Any]:
    def row(behaviour: Behaviour) -> dict[str, str | None]:
        texts = {key: str(getattr(behaviour, key) or "") or None for key in ("area", "since", "until")}
        texts |= {key: getattr(behaviour, key) for key in ("words", "otherwise", "source", "known")}
        changed = {"before": behaviour.words_in(span[0]), "after": behaviour.words_in(span[1])} if span else {}
        return {"behaviour": behaviour.name, **texts, **changed}

    ends = {"from": str(span[0]), "to": str(span[1])} if span else {}
    return {**ends, "behaviours": list(map(row, behaviours))}


def _columns(span: Span | None) -> tuple[str, ...]:
    return ("versions", "in these versions", "in the others") if span is None else (str(span[0]), str(span[1]))


def _cells(behaviour: Behaviour, span: Span | None) -> tuple[str, ...]:
    if span is not None:
        return behaviour.words_in(span[0]), behaviour.words_in(span[1])
    return behaviour.span, behaviour.words, behaviour.otherwise


def _by_area(behaviours: Iterable[Behaviour]) -> Iterator[tuple[str, Iterator[Behaviour]]]:
    return groupby(behaviours, key=lambda behaviour: behaviour.area)


def markdown(behaviours: Iterable[Behaviour], span: Span | None = None) -> str:
    """One table for each area."""
    columns = ("behaviour", *_columns(span), "how it is known", "source")
    lines = [_INTRODUCTION if span is None else f"# From Cilium {span[0]} to {span[1]}\n"]
    for area, rows in _by_area(behaviours):
        lines += [f"## {area[0].upper()}{area[1:]}", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        for behaviour in rows:
            cells = (f"`{behaviour.name}`", *_cells(behaviour, span), behaviour.known, behaviour.source)
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _print(behaviours: Sequence[Behaviour], span: Span | None) -> None:
    if span is not None:
        print(f"From Cilium {span[0]} to {span[1]}: {len(behaviours)} behaviours differ.\n")
    for area, rows in _by_area(behaviours):
        head = [*_columns(span), "how it is known"]
        cells = [[*_cells(behaviour, span), behaviour.known] for behaviour in rows]
        print(area, *table(head, cells, width=max(100, shutil.get_terminal_size((140, 24)).columns)), "", sep="\n")
