#!/usr/bin/env python3
"""Writes the documents that are made from the program: docs/cli.md, docs/behaviours.md and docs/layers.svg.

    python scripts/docs.py             # write them
    python scripts/docs.py --check     # exit status 1 when a committed one is not what would be written
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from unittest import mock

from niclab.cilium import behaviours
from niclab.cli.arguments import parser

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = "100"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    check = options.parse_args().check
    stale = [name for name, text in documents().items() if _differs(ROOT / "docs" / name, text, write=not check)]
    for name in stale:
        print(f"docs/{name} {'is stale: run python scripts/docs.py' if check else 'written'}", file=sys.stderr)
    return 1 if check and stale else 0


def _differs(path: Path, text: str, *, write: bool) -> bool:
    if path.exists() and path.read_text() == text:
        return False
    if write:
        path.write_text(text)
    return True


def documents() -> dict[str, str]:
    """File name below docs/ → its text."""
    return {"cli.md": command_line(), "behaviours.md": behaviours.markdown(), "layers.svg": layers()}


def command_line() -> str:
    """The help of `niclab` and of every verb."""
    top = parser()
    with mock.patch.dict("os.environ", {"COLUMNS": COLUMNS}):
        parts = ["# Command line", "Made from the program by `scripts/docs.py`.", *_help(top)]
    return "\n\n".join(parts) + "\n"


def _help(command: argparse.ArgumentParser, *, depth: int = 2) -> Iterator[str]:
    yield f"{'#' * depth} {command.prog}"
    yield "\n".join(f"    {line}".rstrip() for line in command.format_help().rstrip().splitlines())
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in dict.fromkeys(action.choices.values()):
                yield from _help(verb, depth=min(depth + 1, 4))


def layers() -> str:
    """The packages as a picture: one row a layer, as the import contract in pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = [row.replace(":", "|").split("|") for row in next(c["layers"] for c in contracts if c["type"] == "layers")]
    width, height, gap = 560, 30, 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {len(rows) * (height + gap) + gap}" role="img"'
        ' font-family="sans-serif" font-size="14">',
        "<title>The layers: a package imports only what stands below it</title>",
        "<style>rect{fill:#e8eef7;stroke:#4a6fa5}text{fill:#1b2a41;text-anchor:middle}"
        "@media(prefers-color-scheme:dark){rect{fill:#22304a}text{fill:#e8eef7}}</style>",
    ]
    for number, row in enumerate(rows):
        each = (width - gap * (len(row) + 1)) / len(row)
        top = gap + number * (height + gap)
        for place, name in enumerate(map(str.strip, row)):
            left = gap + place * (each + gap)
            lines.append(f'<rect x="{left:g}" y="{top}" width="{each:g}" height="{height}" rx="4"/>')
            lines.append(f'<text x="{left + each / 2:g}" y="{top + 20}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
