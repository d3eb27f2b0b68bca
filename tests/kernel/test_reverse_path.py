"""The reverse path filter: what agents make of it, what passes, and what is predicted, against the kernel's own."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Topology, World, load
from niclab.check.amend import Amendments, amend
from niclab.kernel.fib import Fib
from niclab.kernel.reversepath import believed, configured, filters
from niclab.net.route import ip_address, parse_route
from scenarios.common import NATIVE, VXLAN

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

BOTH = Settings.of(devices="eth0,eth1")
FLOWS = [
    *(f"{client} -> node{n}.{nic}" for client in ("ext0", "ext1") for n in (1, 2) for nic in ("eth0", "eth1")),
    *(f"{client} -> node{n}.eth1:tcp:30080" for client in ("ext0", "ext1") for n in (1, 2)),
    *(f"{client} -> mail" for client in ("ext0", "ext1", "pod1", "node1.eth1")),
    *(f"pod1 -> {end}" for end in ("pod2", "ext0", "ext1", "node2.eth0", "node2.eth1", "node2.eth1:udp:30053")),
    *(f"{end} -> pod1" for end in ("pod2", "ext0", "ext1", "node2.eth0", "node2.eth1")),
    "node1.eth0 -> node2.eth1",
]


def filtered(name: str, mode: int, *hosts: str, nics: tuple[str, ...] = ("eth0", "eth1")) -> Topology:
    lines = tuple(f"{host}: net.ipv4.conf.{nic}.rp_filter={mode}" for host in hosts or ("all",) for nic in nics)
    return amend(load(name), Amendments(sysctls=lines))


def test_keys_are_read_with_dots_and_with_slashes() -> None:
    sysctls = {
        "net.ipv4.conf.eth0.rp_filter": "1",
        "net/ipv4/conf/eth0.5/rp_filter": "2",
        "net.ipv4.conf.all.src_valid_mark": "1",
        "net.ipv6.conf.eth0.accept_ra": "0",
    }
    assert configured(sysctls) == {"eth0": 1, "eth0.5": 2}
    assert configured(sysctls, "src_valid_mark") == {"all": 1}


def test_the_larger_of_all_and_the_interfaces_own_counts() -> None:
    sysctls = {"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.eth1.rp_filter": "2"}
    assert filters(sysctls, ["eth0", "eth1"]) == {"eth0": 1, "eth1": 2}
    assert filters({"net.ipv4.conf.default.rp_filter": "1"}, ["eth0"]) == {}


@pytest.mark.parametrize(
    ("route", "strict", "loose"),
    [
        ("10.9.0.0/16 dev eth0", True, True),
        ("10.9.0.0/16 dev eth1", False, True),
        ("10.9.0.0/16 nexthop dev eth0 nexthop dev eth1", True, True),
        ("blackhole 10.9.0.0/16", False, False),
        ("10.8.0.0/16 dev eth0", False, False),
    ],
)
def test_strict_wants_this_way_back_and_loose_any(route: str, strict: bool, loose: bool) -> None:
    back = Fib((parse_route(route),), ()).lookup(ip_address("10.9.1.1"))
    assert believed(0, "eth0", back)
    assert believed(1, "eth0", back) == strict
    assert believed(2, "eth0", back) == loose
    assert believed(2, "eth0", back, addressed=False) == strict


@privileged
@pytest.mark.parametrize("devices", ["eth0", "eth0,eth1"])
@pytest.mark.parametrize("legacy", [False, True], ids=["BPF", "legacy"])
@pytest.mark.parametrize("routing", [VXLAN, NATIVE], ids=["vxlan", "native"])
@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_the_kernel_drops_what_is_predicted(version: str, routing: Settings, legacy: bool, devices: str) -> None:
    settings = routing.merged(Settings.of(devices=devices, enable_host_legacy_routing=legacy))
    with Lab.deploy(filtered("services", 1), LAB_BASELINE.merged(settings), cilium_version=version) as lab:
        assert disagreements(lab, lab.send_all(FLOWS, count=2)) == []


@privileged
def test_a_filter_that_is_turned_on_counts_at_once_and_is_undone() -> None:
    settings = NATIVE.merged(BOTH).merged(Settings.of(enable_host_legacy_routing=True))
    with Lab.deploy("services", LAB_BASELINE.merged(settings)) as lab:
        flows = ["ext0 -> node2.eth1:tcp:30080", "ext0 -> node1.eth1:tcp:30080"]
        for mode, verdict in ((1, "lost"), (2, "carried")):
            key = "net.ipv4.conf.eth1.rp_filter"
            with lab.sysctl("node2", key, mode), lab.sysctl("node1", key, mode):
                local, remote = lab.send_all(flows)
                assert (local.verdict, remote.verdict) == (verdict, "carried")
                assert disagreements(lab, [local, remote]) == []
        results = lab.send_all(flows)
        assert [one.verdict for one in results] == ["carried", "carried"]
        assert disagreements(lab, results) == []


@privileged
def test_a_router_may_have_one_too() -> None:
    """And no agent: nothing is taken before it."""
    topology = amend(
        filtered("services", 1, "gw", nics=("p0", "p1")),
        Amendments(routes=("gw: 10.0.0.100/32 via 10.0.1.2 dev p1",)),
    )
    with Lab.deploy(topology, LAB_BASELINE.merged(NATIVE).merged(BOTH)) as lab:
        flow = lab.send("ext0", "node1.eth1")
        assert flow.entered("node1") == set()
        assert disagreements(lab, [flow]) == []
        # gw does not answer who asks as ext0 either; where ext0 knows it already, its packets are dropped.
        asked, known = ([*way.request.decided][-1][1].words for way in flow.expected)
        assert "10.0.0.100 asks by an interface by which it is not believed" in asked
        assert "its way back is by p1 (rp_filter=1)" in known


@privileged
def test_an_asker_that_is_not_believed_gets_no_answer() -> None:
    """node1 asks for ext0 as 10.0.1.1, which ext0 knows behind its router: strict, it does not even answer ARP."""
    topology = amend(
        filtered("services", 1, "ext0", nics=("eth0",)),
        Amendments(routes=("ext0: 10.0.1.1/32 dev lo",)),
    )
    with Lab.deploy(topology, LAB_BASELINE.merged(NATIVE).merged(BOTH)) as lab:
        flow = lab.send("node1.eth1", "ext0")
        assert flow.left("node1") == set()
        assert disagreements(lab, [flow]) == []


@privileged
@pytest.mark.parametrize(
    ("name", "settings", "after"),
    [
        ("egress-gateway", VXLAN.merged(Settings.of(enable_egress_gateway=True)), ("2", "2")),
        ("eni", NATIVE, ("2", "0")),
        ("services", NATIVE, ("1", "1")),
    ],
)
def test_agents_set_the_filters_of_enis_and_of_egress_gateways(
    name: str, settings: Settings, after: tuple[str, str]
) -> None:
    """Of the others only those of their own devices, and the one of all."""
    topology = filtered(name, 1, "node2", nics=("all", "default", "eth0", "eth1"))
    with Lab.deploy(topology, LAB_BASELINE.merged(settings).merged(BOTH)) as lab:
        pod = next(iter(lab.topology.nodes["node2"].pods))
        keys = [f"net/ipv4/conf/{link}/rp_filter" for link in ("all", "cilium_host", f"lxc{pod}", "eth0", "eth1")]
        found = lab.run("node2", "sysctl", "-n", *keys).split()
        assert found == ["0", "0", "0", *after]
        results = lab.send_all(lab.topology.flows, count=2)
        assert disagreements(lab, results) == []
        assert World(lab.decisions).machines["node2"].filters == {
            nic: int(mode) for nic, mode in zip(("eth0", "eth1"), after, strict=True) if mode != "0"
        }
