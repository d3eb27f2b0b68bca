"""The Cilium versions that the model knows."""

from __future__ import annotations

from lab.errors import InputError, Problem
from lab.selection import Version

DEFAULT_VERSION = "1.20"


def modelled_version(text: str) -> Version:
    """A Cilium version that the model knows. Raises InputError."""
    try:
        version = Version.parse(text)
    except ValueError as error:
        raise InputError([Problem("--cilium-version", 0, "", str(error), "e.g. 1.18 or 1.20")]) from None
    if not (1, 16) <= version <= (1, 21):
        raise InputError(
            [Problem("--cilium-version", 0, "", f"the model knows Cilium 1.16 to 1.21, not {version}", "e.g. 1.20")]
        )
    return version
