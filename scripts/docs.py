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

from niclab.cilium import version
from niclab.cli import behaviours
from niclab.cli.arguments import parser

ROOT = Path(__file__).resolve().parent.parent
_Verbs = argparse._SubParsersAction


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
    return {
        "cli.md": command_line(),
        "behaviours.md": behaviours.markdown(tuple(version.behaviours().values())),
        "layers.svg": layers(),
    }


def command_line() -> str:
    """Every verb with its arguments and options. Argparse's own help changes its layout with Python's version."""
    parts = ["# Command line", "Made from the program by `scripts/docs.py`.", *_command(parser(), depth=1)]
    return "\n\n".join(parts) + "\n"


def _command(command: argparse.ArgumentParser, *, depth: int) -> Iterator[str]:
    if depth > 1:
        yield f"{'#' * min(depth, 4)} {command.prog}"
    if command.description:
        yield command.description
    arguments = [action for action in command._actions if not isinstance(action, _Verbs | argparse._HelpAction)]
    if arguments:
        yield "\n".join(_argument(action) for action in arguments)
    for action in command._actions:
        if isinstance(action, _Verbs):
            for verb in dict.fromkeys(action.choices.values()):
                yield from _command(verb, depth=depth + 1)


def _argument(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else "|".join(map(str, action.choices or ()))
    value = value or (action.dest.upper() if action.option_strings and action.nargs != 0 else action.dest)
    names = ", ".join(action.option_strings)
    words = names + (f" {value}" if action.nargs != 0 else "") if names else value
    many = " (repeatable)" if type(action).__name__ == "_AppendAction" else ""
    help_ = action.help % {"default": action.default} if action.help else ""
    return f"- `{words}`{many}" + (f": {help_}" if help_ else "")


def layers() -> str:
    """The packages as a picture: one row a layer, as the import contract in pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = [row.replace(":", "|").split("|") for row in next(c["layers"] for c in contracts if c["type"] == "layers")]
    width, height, gap = 560, 30, 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {len(rows) * (height + gap) + gap}" role="img">',
        "<title>The layers: a package imports only what stands below it</title>",
        "<style>text { font: 14px sans-serif; fill: #1b2a41; text-anchor: middle }",
        "rect { fill: #e8eef7; stroke: #4a6fa5 }</style>",
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
