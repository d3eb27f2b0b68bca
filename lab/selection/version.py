"""A Cilium minor version: the rules differ by it. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A Cilium minor version."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """From `1.18`, `v1.18.3` or `1.20.0-dev`. Raises ValueError."""
        parts = text.strip().removeprefix("v").split(".")
        try:
            return cls(int(parts[0]), int(parts[1].split("-")[0]))
        except (IndexError, ValueError):
            raise ValueError(f"{text!r} is not a Cilium version (want MAJOR.MINOR, e.g. 1.18)") from None

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"
