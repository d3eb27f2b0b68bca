"""Bonds, VLANs, VRFs and dummies on this kernel."""

from __future__ import annotations

import subprocess

import pytest
from niclab.net.operation import AddBond, AddCable, AddDummy, AddNamespace, AddVlan, AddVrf, Operation

from tests.support.kernel import privileged, substrate

MAC = "02:00:00:00:00:01"


@privileged
@pytest.mark.parametrize(
    ("feature", "operations"),
    [
        pytest.param("bond", [AddBond("n", "b", MAC, "active-backup", 1500)], marks=pytest.mark.needs("bond")),
        pytest.param("vlan", [AddVlan("n", "v", "e", 100, 1500)], marks=pytest.mark.needs("vlan")),
        pytest.param("vrf", [AddVrf("n", "f", MAC, 100)], marks=pytest.mark.needs("vrf")),
        pytest.param("dummy", [AddDummy("n", "d", MAC, 1500)], marks=pytest.mark.needs("dummy")),
    ],
)
def test_the_kernel_takes_it(feature: str, operations: list[Operation]) -> None:
    with substrate() as real:
        cable = AddCable("fabric", "p0", "02:01:00:00:00:01", "n", "e", "02:00:00:00:00:09")
        real.apply([AddNamespace("n"), cable, *operations])
        shown = subprocess.run(["ip", "-d", "-n", real["n"].name, "link"], capture_output=True, text=True, check=True)
        assert f"    {feature} " in shown.stdout
