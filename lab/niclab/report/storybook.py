"""Claims and issues as tables for people: text for a terminal, Markdown for the documentation. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from niclab.plugin.claims import Told

_SEEN = 6
"""Lines of evidence shown per story and version; the record has them all."""


def as_json(found: Sequence[Told]) -> list[dict[str, Any]]:
    """Every story with its versions' outcomes and evidence."""
    return [
        {
            **one.story,
            "cilium_version": one.version,
            "outcome": "proved" if one.proved else "not proved",
            "seen": list(one.seen),
            "commands": list(one.ran),
            "tests": list(one.tests),
        }
        for one in found
    ]


def _together(found: Sequence[Told]) -> list[list[Told]]:
    """The same story on each version: claims in the record's order, issues by number."""
    groups: dict[tuple[int, str], list[Told]] = {}
    for one in found:
        number = one.story["number"]
        groups.setdefault((number, "") if number else (0, one.story["says"]), []).append(one)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def verdict(versions: Sequence[Told]) -> str:
    """A claim's verdict in a word or, where versions differ, in one each."""
    words = {one.version: one.verdict for one in versions}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{word} on {version}" for version, word in words.items())


def text(found: Sequence[Told], *, width: int = 120) -> str:
    """One paragraph per story."""
    parts = []
    for number, versions in enumerate(_together(found), 1):
        story = versions[0].story
        head = f"#{story['number']}" if story["kind"] == "issue" else f"{number:2} {verdict(versions).upper()}"
        lines = _wrapped(f"{head}  {story['says']}", width, "")
        if story["truth"] if story["kind"] == "claim" else "":
            lines += _wrapped(f"so: {story['truth']}", width, "    ")
        for one in versions:
            outcome = "" if one.proved else f" ({', '.join(dict.fromkeys(one.outcomes))})"
            lines += [f"    {one.version}{outcome}:", *(f"      {line}" for line in _few(one.seen))]
        for one in versions[:1]:
            lines += [f"      {line}" for ran in one.ran for line in _few(ran.splitlines())]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _few(lines: Sequence[str]) -> Iterable[str]:
    more = len(lines) - _SEEN
    return [*lines[:_SEEN], *([f"… and {more} more in the record"] if more > 0 else [])]


def _wrapped(words: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=f"{indent}    ")


def markdown(found: Sequence[Told], *, title: str, measured: str) -> str:
    """A document with one table; `measured` says when, with what and on which versions."""
    claims = bool(found) and found[0].story["kind"] == "claim"
    versions = list(dict.fromkeys(one.version for one in found))
    first = ["claim", "verdict", "what is so"] if claims else ["issue", "about"]
    head = [*first, *(f"seen on {version}" for version in versions)]
    lines = [f"# {title}", "", measured, "", _line(head), _line(["---"] * len(head))]
    for group in _together(found):
        story = group[0].story
        cells = [story["says"], verdict(group), story["truth"]] if claims else [f"#{story['number']}", story["says"]]
        by_version = {one.version: one for one in group}
        cells += [_cell(by_version.get(version)) for version in versions]
        lines.append(_line(cells))
    printed = [group for group in _together(found) if any(one.ran for one in group)]
    if printed:
        lines += ["", "## What the commands printed"]
    for group in printed:
        lines += ["", f"### {group[0].story['says']}"]
        for output, on in _outputs(group).items():
            lines += ["", f"{' and '.join(on)}:", "", *(f"    {line}".rstrip() for line in output.splitlines())]
    return "\n".join(lines).rstrip() + "\n"


def _outputs(group: Sequence[Told]) -> dict[str, list[str]]:
    """What was printed → the versions it was the same on."""
    found: dict[str, list[str]] = {}
    for one in group:
        for output in dict.fromkeys(one.ran):
            found.setdefault(output, []).append(one.version)
    return found


def _cell(one: Told | None) -> str:
    if one is None:
        return "–"
    seen = "<br>".join(one.seen)
    return seen if one.proved else f"**{', '.join(dict.fromkeys(one.outcomes))}**<br>{seen}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
