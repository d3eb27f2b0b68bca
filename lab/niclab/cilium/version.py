"""Versions: Cilium's minor ones, by which its rules differ, and releases as binaries print them. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol, TypeAlias

from niclab.errors import InputError, Problem


class Fact(Protocol):
    """Something that holds in some versions: see `niclab.cilium.behaviours`."""

    def holds(self, version: Version) -> bool: ...


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

    def has(self, fact: Fact) -> bool:
        """Does this version behave so?"""
        return fact.holds(self)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


VERSIONS = tuple(Version(1, minor) for minor in range(16, 22))
"""The versions whose rules are known here."""
DEFAULT_VERSION = "1.20"


def modelled_version(text: str, option: str = "--cilium-version") -> Version:
    """A version that the model knows; `option` says where it was given. Raises InputError."""
    try:
        version = Version.parse(text)
    except ValueError as error:
        raise InputError([Problem(option, 0, "", str(error), "e.g. 1.18 or 1.20")]) from None
    if version not in VERSIONS:
        why = f"the model knows Cilium {VERSIONS[0]} to {VERSIONS[-1]}, not {version}"
        raise InputError([Problem(option, 0, "", why, "e.g. 1.20")])
    return version


_RELEASE = r"(\d+)\.(\d+)\.(\d+)((?:[-+][0-9A-Za-z.+-]+)?)"
_WHOLE = re.compile(_RELEASE)
_PRINTED = re.compile(rf"(?:^|\s)v?({_RELEASE})(?=\s|$)")

Age: TypeAlias = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def printed_release(output: str) -> str | None:
    """The first release in what `--version` printed. A Go version has no blank in front and is not taken for it."""
    match = _PRINTED.search(output)
    return match[1] if match else None


def whole_release(text: str) -> str | None:
    """`1.18.3` from `1.18.3` or `v1.18.3`; None when it is no release in full."""
    bare = text.removeprefix("v")
    return bare if _WHOLE.fullmatch(bare) else None


def minor_of(release: str) -> str:
    return ".".join(release.split(".")[:2])


def age(release: str) -> Age:
    """Orders releases: a release is newer than its pre-releases, and rc.10 is newer than rc.9."""
    match = _WHOLE.fullmatch(release)
    if not match:
        return (0, 0, 0, False, ())
    # What follows a + says how it was built, not how new it is.
    suffix = match[4].partition("+")[0].removeprefix("-")
    parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in suffix.split(".") if part)
    return (int(match[1]), int(match[2]), int(match[3]), not parts, parts)
