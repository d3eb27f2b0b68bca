"""Bonds, VLANs, VRFs and dummies on this kernel."""

from __future__ import annotations

import subprocess

import pytest
from niclab.net.operation import AddCable, AddLink, AddNamespace

from tests.support.kernel import privileged, substrate

MAC = "02:00:00:00:00:01"


@privileged
@pytest.mark.parametrize(
    "link",
    [
        pytest.param(link, id=link.kind, marks=pytest.mark.needs(link.kind))
        for link in (
            AddLink.bond("n", "b", MAC, 1500, mode="active-backup"),
            AddLink("n", "v", "vlan", (("id", 100),), mtu=1500, parent="e"),
            AddLink("n", "f", "vrf", (("table", 100),), MAC),
            AddLink("n", "d", "dummy", (), MAC, 1500),
        )
    ],
)
def test_the_kernel_takes_it(link: AddLink) -> None:
    with substrate() as real:
        cable = AddCable("fabric", "p0", "02:01:00:00:00:01", "n", "e", "02:00:00:00:00:09")
        real.apply([AddNamespace("n"), cable, link])
        shown = subprocess.run(["ip", "-d", "-n", real["n"].name, "link"], capture_output=True, text=True, check=True)
        assert f"    {link.kind} " in shown.stdout
