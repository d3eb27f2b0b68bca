"""Which datapath a lab gets when nobody says: real Cilium where a bundle is at hand, else the built-in model."""

from __future__ import annotations

from typing import Literal

from niclab.errors import LabError
from niclab.host import userns

Datapath = Literal["builtin", "cilium"]


def datapath(asked: str | None, version: str | None = None) -> Datapath:
    """The datapath asked for, else real Cilium when there is a bundle (of that version) and this process is root.

    Raises LabError when `asked` is neither of the two.
    """
    if asked in ("builtin", "cilium"):
        return "cilium" if asked == "cilium" else "builtin"
    if asked is not None:
        raise LabError(f"there is no datapath {asked!r}", fix="use builtin or cilium")
    # In a user namespace no eBPF program can be loaded.
    if userns.is_inside() or not userns.is_able():
        return "builtin"
    return "cilium" if has_bundle(version) else "builtin"


def has_bundle(version: str | None) -> bool:
    """Is there a bundle of Cilium, of that version where one is named?"""
    from niclab.agents import bundle

    try:
        bundle.find_cilium(version)
    except LabError:
        return False
    return True


def versions(kind: Datapath) -> tuple[str, ...]:
    """The versions that lab tests run on by default: what there are bundles of; the model around its great change."""
    if kind == "builtin":
        return ("1.18", "1.20")
    from niclab.agents import bundle

    found = sorted({one.minor for one in bundle.all_cilium()}, key=lambda minor: [int(n) for n in minor.split(".")])
    return tuple(found)
