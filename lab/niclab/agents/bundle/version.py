"""Versions as binaries print them and people ask for them."""

from __future__ import annotations

import re
from typing import TypeAlias

_VERSION = r"(\d+)\.(\d+)\.(\d+)((?:[-+][0-9A-Za-z.+-]+)?)"
_WHOLE = re.compile(_VERSION)
_PRINTED = re.compile(rf"(?:^|\s)v?({_VERSION})(?=\s|$)")

Key: TypeAlias = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def printed(output: str) -> str | None:
    """The first version in what `--version` printed. A Go version has no blank in front and is not taken for it."""
    found = _PRINTED.search(output)
    return found[1] if found else None


def wanted(text: str) -> str | None:
    """`1.18.3` from `1.18.3` or `v1.18.3`; None when it is no version in full."""
    bare = text.removeprefix("v")
    return bare if _WHOLE.fullmatch(bare) else None


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def key(version: str) -> Key:
    """Orders versions: a release is newer than its pre-releases, and rc.10 is newer than rc.9."""
    found = _WHOLE.fullmatch(version)
    if not found:
        return (0, 0, 0, False, ())
    # What follows a + says how it was built, not how new it is.
    suffix = found[4].partition("+")[0].removeprefix("-")
    parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in suffix.split(".") if part)
    return (int(found[1]), int(found[2]), int(found[3]), not parts, parts)
