"""The package's data files: facts of Cilium's releases, one a line."""

from __future__ import annotations

from importlib import resources


def lines(name: str) -> list[str]:
    """A data file's lines, without comments and empty ones."""
    text = resources.files("niclab.settings").joinpath("data", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
