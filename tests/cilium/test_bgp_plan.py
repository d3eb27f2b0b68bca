"""BGP sessions, what is learned over them, and FRR's configuration: pure, from topologies."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab import LAB_BASELINE, Flow, Settings, Topology, Version, World, load
from niclab.agents.frr import programs
from niclab.check import loads
from niclab.cilium.bgp import SWITCH, advertised, learned_routes, ribs, sessions, speakers
from niclab.cilium.decisions import Decisions
from niclab.settings import NodeSettings
from niclab.topology.file import find

from tests.support.golden_files import assert_golden


def decided(topology: Topology, version: str = "1.20", **settings: str | bool) -> Decisions:
    return Decisions(topology, LAB_BASELINE.merged(Settings.of(**settings)), Version.parse(version))


def text(decisions: Decisions, router: str) -> dict[str, set[str]]:
    return {str(prefix): set(map(str, hops)) for prefix, hops in ribs(decisions)[router].items()}


def changed(old: str, new: str) -> Topology:
    shipped = find("two-tors").read_text()
    assert old in shipped
    return loads(shipped.replace(old, new), "changed.yaml")


def test_peers_are_who_shares_a_fabric() -> None:
    met = [(one.own.tap, one.peer.tap) for one in sessions(load("two-tors")) if not one.passive]
    assert met == [
        ("spine.p0", "tor0.up"),
        ("spine.p1", "tor1.up"),
        *((f"{node}.eth{n}", f"tor{n}.down") for node in ("node1", "node2") for n in (0, 1)),
    ]


def test_each_session_has_two_ends_of_which_one_dials() -> None:
    found = sessions(load("two-tors"))
    assert {(one.own, one.peer, one.passive) for one in found} == {
        (one.peer, one.own, not one.passive) for one in found
    }
    # Cilium dials and does not listen.
    assert not any(one.passive for one in found if one.own.host.startswith("node"))


def test_a_nic_that_is_down_has_no_session() -> None:
    topology = changed("eth1: {fabric: f1, addresses:", "eth1: {up: false, fabric: f1, addresses:")
    assert {one.own.nic for one in sessions(topology) if one.own.host == "node1"} == {"eth0"}


DUAL = """\
name: dual
fabrics: {f0: {}, f1: {}}
routers:
  tor:
    nics: {down: {fabric: f0, addresses: [10.0.0.254/24, 'fd00::fe/64', 10.7.0.1/24]}, up: {fabric: f1}}
nodes:
  node1:
    nics: {eth0: {fabric: f0, addresses: [10.0.0.1/24, 'fd00::1/64']}}
    routes: default via 10.0.0.254
    pod_cidrs: [10.244.1.0/24, 'fd00:244:1::/64']
bgp: {nodes: {asn: 65000}, routers: {tor: {asn: 65010}}}
"""


def test_each_family_has_a_session_of_its_own() -> None:
    topology = loads(DUAL, "dual.yaml")
    found = [(one.family, str(one.own.address), str(one.peer.address)) for one in sessions(topology) if one.passive]
    assert found == [(4, "10.0.0.254", "10.0.0.1"), (6, "fd00::fe", "fd00::1")]
    assert text(decided(topology, enable_ipv6=True), "tor") == {
        "10.244.1.0/24": {"10.0.0.1"},
        "fd00:244:1::/64": {"fd00::1"},
    }
    assert set(text(decided(topology, enable_ipv6=False), "tor")) == {"10.244.1.0/24"}


def test_each_router_learns_the_address_on_its_own_fabric() -> None:
    decisions = decided(load("two-tors"))
    assert text(decisions, "tor0") == {
        "10.0.1.0/24": {"10.1.0.2"},
        "10.9.0.0/24": {"10.1.0.2"},
        "10.244.1.0/24": {"10.0.0.1"},
        "10.244.2.0/24": {"10.0.0.2"},
        "192.0.2.80/32": {"10.0.0.1", "10.0.0.2"},
        "192.0.2.81/32": {"10.0.0.2"},
    }
    assert text(decisions, "spine")["10.244.1.0/24"] == {"10.1.0.1", "10.1.1.1"}
    assert text(decisions, "node1") == {}


@pytest.mark.parametrize("devices", ["", "eth0", "eth1", "eth0,eth1"])
def test_devices_changes_nothing_of_it(devices: str) -> None:
    assert ribs(decided(load("two-tors"), devices=devices)) == ribs(decided(load("two-tors")))


def test_a_node_whose_agent_exits_advertises_nothing() -> None:
    decisions = decided(load("two-tors"), devices="eth9")
    assert decisions.running == ()
    assert set(text(decisions, "tor0")) == {"10.0.1.0/24", "10.9.0.0/24"}


def test_nor_does_one_that_is_told_not_to() -> None:
    one = LAB_BASELINE.merged(Settings(per_node=(NodeSettings.of("node1", {SWITCH: "false"}),)))
    decisions = Decisions(load("two-tors"), one, Version.parse("1.20"))
    assert advertised(decisions)["node1"] == ()
    assert "10.244.1.0/24" not in text(decisions, "tor0")
    assert text(decisions, "tor0")["192.0.2.80/32"] == {"10.0.0.2"}


def test_only_what_is_chosen_is_advertised() -> None:
    topology = changed("advertise: [pod-cidrs, services]", "advertise: services")
    assert set(text(decided(topology), "tor0")) == {"10.0.1.0/24", "10.9.0.0/24", "192.0.2.80/32", "192.0.2.81/32"}


def test_without_bgp_nothing_is_learned() -> None:
    decisions = decided(load("two-nic"))
    assert speakers(decisions.topology) == {}
    assert sessions(decisions.topology) == ()
    assert ribs(decisions) == {}
    assert learned_routes(decisions) == {}


def test_routes_are_those_zebra_installs() -> None:
    found = [str(route) for route in learned_routes(decided(load("two-tors")))["tor0"]]
    assert "10.244.1.0/24 via 10.0.0.1 dev down proto bgp metric 20" in found
    both = "nexthop via 10.0.0.1 dev down weight 1 nexthop via 10.0.0.2 dev down weight 1"
    assert f"192.0.2.80/32 proto bgp metric 20 {both}" in found


def test_prediction_knows_them() -> None:
    world = World(decided(load("two-tors"), devices="eth0,eth1"))
    found = [[step.tap for step in each.request.left] for each in world.predict(Flow.parse("client -> pod1"))]
    assert found == [["client.eth0", "spine.p0", "tor0.down"], ["client.eth0", "spine.p1", "tor1.down"]]
    told_nothing = World(decided(load("two-tors"), enable_bgp_control_plane="false"))
    assert [each.carried for each in told_nothing.predict(Flow.parse("client -> pod1"))] == [False]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_paths_are_the_shortest(network: tuple[int, set[tuple[int, int]]]) -> None:
    """Any network of routers, a node behind the first: each learns the pods by every neighbour that is nearest."""
    count, drawn = network
    links = sorted({(min(link), max(link)) for link in drawn if link[0] != link[1]})
    decisions = decided(_meshed(count, links))
    distance = {0: 0}
    for _ in range(count):
        for one, other in (*links, *((b, a) for a, b in links)):
            if one in distance:
                distance[other] = min(distance.get(other, count), distance[one] + 1)
    learned = ribs(decisions)
    for router in range(count):
        nearest = {
            f"10.1.{number}.{1 + (router == one)}"
            for number, (one, other) in enumerate(links)
            if router in (one, other)
            and distance.get(other if router == one else one, count) == distance.get(router, count) - 1
        }
        wanted = {"10.0.0.1"} if router == 0 else nearest if router in distance else set()
        found = learned[f"r{router}"].get(ip_network("10.244.1.0/24"), frozenset())
        assert set(map(str, found)) == wanted


def _meshed(count: int, links: list[tuple[int, int]]) -> Topology:
    nics: dict[int, dict[str, object]] = {router: {"lan": {"fabric": f"l{router}"}} for router in range(count)}
    nics[0]["down"] = {"fabric": "f0", "addresses": "10.0.0.254/24"}
    for number, ends in enumerate(links):
        for place, router in enumerate(ends, 1):
            nics[router][f"p{number}"] = {"fabric": f"x{number}", "addresses": f"10.1.{number}.{place}/24"}
    fabrics = ["f0", *(f"l{router}" for router in range(count)), *(f"x{number}" for number in range(len(links)))]
    return Topology.model_validate(
        {
            "name": "meshed",
            "fabrics": {fabric: {} for fabric in fabrics},
            "routers": {f"r{router}": {"nics": mine} for router, mine in nics.items()},
            "nodes": {
                "node1": {
                    "nics": {"eth0": {"fabric": "f0", "addresses": "10.0.0.1/24"}},
                    "routes": "default via 10.0.0.254",
                    "pod_cidrs": "10.244.1.0/24",
                }
            },
            "bgp": {
                "nodes": {"asn": 65000},
                "routers": {f"r{router}": {"asn": 65001 + router} for router in range(count)},
            },
        }
    )


def test_configurations() -> None:
    """To be read as a whole: a router's, which passes on what it hears, and a node's, which rejects it."""
    topology = load("two-tors")
    assert_golden(
        "two-tors.bgpd.conf",
        "!\n".join(programs.configuration(decided(topology), name) for name in ("tor0", "spine", "node1")),
    )


def test_each_family_is_configured_apart() -> None:
    lines = programs.configuration(decided(loads(DUAL, "dual.yaml")), "tor").splitlines()
    blocks = [
        lines[start:end]
        for start, end in pairwise(
            [*(at for at, line in enumerate(lines) if line.startswith(" address-family")), len(lines)]
        )
    ]
    assert [[line.split()[1] for line in block if "activate" in line] for block in blocks] == [
        ["10.0.0.1"],
        ["fd00::1"],
    ]


def test_a_speaker_without_ipv4_has_an_id_all_the_same() -> None:
    ends = [one for one in sessions(loads(DUAL, "dual.yaml")) if one.family == 6]
    assert programs.router_id(258, ends) == "0.0.1.2"
