"""Versions: Cilium's minor ones, what differs between them, and releases as binaries print them. Pure.

The only place where a version is compared with a number. What differs are named facts, in data/behaviours.txt; its head
says what a fact's fields are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple, TypeAlias

from niclab.cilium.tables import paragraphs
from niclab.errors import InputError, Problem


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

    def has(self, behaviour: str) -> bool:
        """Does this version behave so? By the behaviour's name in the table."""
        return behaviours()[behaviour].holds(self)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Behaviour(NamedTuple):
    """A named fact that differs between Cilium versions."""

    name: str
    area: str
    words: str
    otherwise: str
    source: str
    since: Version | None
    until: Version | None
    measured: str

    @property
    def known(self) -> str:
        """How it is known."""
        return f"measured on {self.measured}" if self.measured else "read in source"

    @property
    def span(self) -> str:
        """The versions in which it holds."""
        last = Version(self.until.major, self.until.minor - 1) if self.until else None
        if self.since and last:
            return f"{self.since} to {last}"
        return f"from {self.since}" if self.since else f"up to {last}"

    def holds(self, version: Version) -> bool:
        return (self.since is None or version >= self.since) and (self.until is None or version < self.until)

    def words_in(self, version: Version) -> str:
        """What happens in a version."""
        return self.words if self.holds(version) else self.otherwise


@cache
def behaviours() -> Mapping[str, Behaviour]:
    """Every behaviour by its name, area by area."""
    table: dict[str, Behaviour] = {}
    for name, lines in paragraphs("behaviours").items():
        fields = dict(line.split(": ", 1) for line in lines)
        since, until = (Version.parse(fields[key]) if key in fields else None for key in ("since", "until"))
        area, words, otherwise, source = (fields[key] for key in ("area", "words", "otherwise", "source"))
        table[name] = Behaviour(name, area, words, otherwise, source, since, until, fields.get("measured", ""))
    return table


def changes(before: Version, after: Version) -> tuple[Behaviour, ...]:
    """What differs between two versions."""
    return tuple(each for each in behaviours().values() if each.holds(before) != each.holds(after))


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
