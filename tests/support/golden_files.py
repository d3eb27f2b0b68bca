"""Golden files: what a pure function made last time it was looked at, in `tests/golden`."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "golden"
_UPDATE = "NICLAB_GOLDEN"


def assert_golden(name: str, text: str) -> None:
    """The text is the file's; with NICLAB_GOLDEN=update the file becomes the text, for a person to read the diff."""
    path = DIRECTORY / name
    if os.environ.get(_UPDATE) == "update":
        path.write_text(text)
    assert path.is_file(), f"no golden file {name}: run {_UPDATE}=update pytest, and read what it wrote"
    assert text == path.read_text(), f"{name} differs: if that is right, run {_UPDATE}=update pytest and read the diff"
