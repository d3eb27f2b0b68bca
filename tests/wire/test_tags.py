"""A VLAN's tag that the kernel takes out of a frame on its way in is in the capture: cells name the VLAN."""

from __future__ import annotations

import os
from ipaddress import ip_address

import pytest
from niclab import Lab
from niclab.wire.decode import vlan_of
from niclab.wire.probe import build

from tests.support.busy import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")


def test_a_tag_is_in_the_capture_on_both_ends_of_a_cable() -> None:
    """The tap sees what the node sent coming in, where the kernel keeps the tag beside the frame, and what goes on."""
    source, destination = ip_address("10.0.1.1"), ip_address("10.0.1.2")
    (probe,) = build(lab=1, flow=1, count=1, protocol="udp", source=source, destination=destination, port=53)
    ethernet = bytes.fromhex("ffffffffffff") + bytes.fromhex("020000000001")
    tagged, plain = ethernet + bytes.fromhex("810000640800"), ethernet + bytes.fromhex("0800")
    with Lab.deploy("two-nic") as lab:
        lab.taps.drain()
        for header in (tagged, plain):
            lab.taps.inject("node1", "eth1", header + probe.packet)
        seen: list[tuple[str, int | None]] = []

        def all_seen() -> bool:
            frames = [frame for frame in lab.taps.drain() if frame.data.endswith(probe.packet)]
            seen.extend((frame.tap, vlan_of(frame.data)) for frame in frames)
            return {(tap, tag) for tap in ("node1.eth1", "node2.eth1") for tag in (100, None)} <= set(seen)

        wait_for(all_seen)
