"""Nodes with settings of their own: a CiliumNodeConfig over the ConfigMap, for nodes whose NICs have other names."""

from __future__ import annotations

import pytest
from niclab import Lab, NodeSettings, Settings, fails_without

from .common import PEERS_BY_ETH1

TUNNEL = Settings.of(routing="tunnel", tunnel="vxlan", devices="eth0,eth1")
NODE2_ONLY_ETH1 = Settings(
    per_node=(NodeSettings.of("data-only", {"devices": "eth1"}, {"kubernetes.io/hostname": "node2"}),)
)

OVERRULED = Settings(
    per_node=(NodeSettings.of("overruling", {"devices": "eth0,eth1"}, {"kubernetes.io/hostname": "node2"}),)
)

pytestmark = [pytest.mark.topology("two-nic"), pytest.mark.settings(TUNNEL, NODE2_ONLY_ETH1)]


@fails_without("the node's own config", instead=OVERRULED)
def test_a_node_config_overrides_the_config_map(lab: Lab) -> None:
    """A CiliumNodeConfig that selects node2 replaces `devices` there, and nowhere else."""
    assert lab.reported["node1"].devices == ("eth0", "eth1")
    assert lab.reported["node2"].devices == ("eth1",)


@fails_without("the node's own config", instead=OVERRULED)
@fails_without("the node's own config", instead=OVERRULED, version="1.18")
def test_each_node_masquerades_by_its_own_devices(lab: Lab) -> None:
    """node2's eth0 is not selected: up to 1.18 its pods' packets never leave by it, later they leave with their own
    address."""
    from_node1, from_node2 = lab.send_all(["pod1 -> ext0", "pod2 -> ext0"])
    assert from_node1.source_seen_by("ext0") == "10.0.0.1"
    if lab.version <= (1, 18):
        from_node2.must_not_leave("node2", by="eth0")
    else:
        assert from_node2.source_seen_by("ext0") == lab.address("pod2")


@fails_without("the peer's node IP by eth0", instead=PEERS_BY_ETH1)
def test_the_tunnel_between_them_does_not_care(lab: Lab) -> None:
    """The tunnel follows the route to the node IP, with different `devices` at its two ends."""
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == flow.entered("node2") == flow.answered_by("node2") == {"eth0"}
    flow.must_receive()
