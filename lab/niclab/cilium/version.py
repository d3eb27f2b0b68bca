"""A Cilium minor version: the rules differ by it. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A Cilium minor version. Its rules are those of its newest point release that could be read.

    1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 as it was branched off (2026-07-07), 1.21 as of main (2026-08-05).
    """

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


VERSIONS = tuple(Version(1, minor) for minor in range(16, 22))
"""The versions whose rules are known here."""
