"""The bundles that tests of real agents run on: named by NICLAB_CILIUM, as for the lab itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from niclab.agents import bundle
from niclab.host.userns import is_able, is_inside

REASON = "needs root and a bundle of Cilium: set NICLAB_CILIUM to directories with bin/ and bpf/"
_NAMED = os.environ.get("NICLAB_TEST_CILIUM", "")


def by_minor() -> dict[str, bundle.Bundle]:
    """Minor version → a bundle of it; none without root, in a user namespace, or without bundles."""
    if not _NAMED or not is_able() or is_inside():
        return {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NICLAB_CILIUM", _NAMED)
        return {one.minor: one for one in reversed(bundle.every(bundle.CILIUM))}


def use(patch: pytest.MonkeyPatch) -> None:
    """Let the lab find the bundles, for one test."""
    patch.setenv("NICLAB_CILIUM", _NAMED)


def control_planes() -> list[str]:
    """Those that can be had here."""
    return ["kvstore", *(["kubernetes"] if os.environ.get("NICLAB_KUBERNETES") else [])]


def root_cgroup_programs() -> list[str]:
    """Files under the host's cgroup hierarchies that a lab makes: none may be left."""
    return sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("niclab-*"))
