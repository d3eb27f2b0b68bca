"""A run of pytest inside a test: what it runs, and what is left of it."""

from __future__ import annotations

from pathlib import Path

FAILING = """\
import pytest
pytestmark = [pytest.mark.topology("two-nic"), pytest.mark.cilium("1.20")]

@pytest.mark.settings(devices="eth1")
def test_wrong(lab):
    print("wrong:", lab.id)
    assert lab.send("pod1", "ext1").left("node1") == {"eth0"}

def test_right(lab):
    print("right:", lab.id)
    assert lab.send("pod1", "ext0").left("node1") == {"eth0"}
"""


def standing(lab_id: str) -> bool:
    return Path("/run/niclab", lab_id).exists() or any(Path("/run/netns").glob(f"{lab_id}-*"))
