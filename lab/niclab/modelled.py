"""The Cilium versions that the model knows."""

from __future__ import annotations

from niclab.cilium.selection import VERSIONS, Version
from niclab.errors import InputError, Problem

DEFAULT_VERSION = "1.20"


def modelled_version(text: str) -> Version:
    """A Cilium version that the model knows. Raises InputError."""
    try:
        version = Version.parse(text)
    except ValueError as error:
        raise InputError([Problem("--cilium-version", 0, "", str(error), "e.g. 1.18 or 1.20")]) from None
    if version not in VERSIONS:
        why = f"the model knows Cilium {VERSIONS[0]} to {VERSIONS[-1]}, not {version}"
        raise InputError([Problem("--cilium-version", 0, "", why, "e.g. 1.20")])
    return version
