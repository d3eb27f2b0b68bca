"""What an agent finds on its first start."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, Settings, Version, load
from niclab.agents import seed
from niclab.cilium.decisions import Decisions
from niclab.net.operation import AddAddress, AddCable


def decisions(version: str = "1.18", **settings: str) -> Decisions:
    return Decisions(load("two-nic"), LAB_BASELINE.merged(Settings.of(**settings)), Version.parse(version))


def addresses_taken_up(header: str) -> list[str]:
    """As an agent reads them: 16 bytes of either family behind a mark (getCiliumHostIPsFromFile)."""
    found = []
    for family, text in re.findall(r"cilium\.v([46])\.internal\.raw (.*)", header):
        packed = bytes(int(byte, 16) for byte in text.split(", "))
        assert len(packed) == 16
        address = ip_address(packed)
        found.append(str(getattr(address, "ipv4_mapped", None) if family == "4" else address))
    return found


def test_router_addresses_are_written_as_agents_read_them() -> None:
    text = seed.node_config({4: ip_address("10.244.1.1"), 6: ip_address("fd00:1::1")})
    assert addresses_taken_up(text) == ["10.244.1.1", "fd00:1::1"]
    # It is included by what is compiled before the agent writes its own: nothing but a comment.
    assert text.startswith("/*\n")
    assert text.endswith("*/\n")


def test_a_node_gets_its_own_router_address_and_only_families_in_use(tmp_path: Path) -> None:
    for node, address in (("node1", "10.244.1.1"), ("node2", "10.244.2.1")):
        seed.sow(tmp_path / node, decisions(), node, {"cilium_host": 7})
        header = (tmp_path / node / "globals" / "node_config.h").read_text()
        assert addresses_taken_up(header) == [address]


@pytest.mark.parametrize("ipam", ["multi-pool", "eni", "delegated-plugin"])
def test_no_router_address_where_others_give_the_addresses(tmp_path: Path, ipam: str) -> None:
    seed.sow(tmp_path, decisions(ipam=ipam), "node1", {"cilium_host": 7})
    assert not (tmp_path / "globals").exists()


@pytest.mark.parametrize("version", ["1.17", "1.18", "1.20"])
def test_the_host_endpoint_is_that_of_cilium_host(tmp_path: Path, version: str) -> None:
    seed.sow(tmp_path, decisions(version), "node2", {"cilium_host": 7})
    told = json.loads((tmp_path / "1" / "ep_config.json").read_text())
    assert (told["ID"], told["IfName"], told["IfIndex"]) == (1, "cilium_host", 7)
    cable = next(one for one in seed.links(decisions(version)) if one.namespace == "node2")
    assert isinstance(cable, AddCable)
    assert told["NodeMAC"] == cable.peer_mac


def test_no_host_endpoint_without_its_link(tmp_path: Path) -> None:
    """A node whose agent is expected to exit gets no links."""
    seed.sow(tmp_path, decisions(), "node1", {})
    assert not (tmp_path / "1").exists()


def test_links_have_the_same_addresses_in_every_lab_and_others_on_every_node() -> None:
    found = [one for one in seed.links(decisions()) if isinstance(one, AddCable)]
    assert list(seed.links(decisions())) == list(seed.links(decisions(devices="eth1")))
    assert [(one.namespace, one.name, one.peer_name) for one in found] == [
        (node, "cilium_net", "cilium_host") for node in ("node1", "node2")
    ]
    assert len({mac for one in found for mac in (one.mac, one.peer_mac)}) == 4


def test_cilium_host_has_the_router_address_where_the_node_gives_the_addresses() -> None:
    def given(**settings: str) -> list[tuple[str, str]]:
        operations = seed.links(decisions(**settings))
        return [(one.namespace, str(one.interface)) for one in operations if isinstance(one, AddAddress)]

    assert given() == [("node1", "10.244.1.1/32"), ("node2", "10.244.2.1/32")]
    assert given(ipam="multi-pool") == []
