"""Real agents' tables `devices` and `node-addresses` against ours, on a node with every kind of link the kernel has.

What an agent's tables `devices` and `routes` say goes in, and each device's Selected and NotSelectedReason must come
out, and the node addresses with their flags.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from niclab import LAB_BASELINE, Settings
from niclab.agents.agent import Agent
from niclab.agents.datapath import Cilium
from niclab.agents.reported import json_rows
from niclab.check import loads
from niclab.cilium.selection.addresses import node_addresses
from niclab.cilium.selection.devices import Choice, Device, decide
from niclab.cilium.selection.links import Link, LinkAddress, RouteRow, links_of
from niclab.cilium.version import Version
from niclab.host.waiting import wait_until
from niclab.lab import Lab
from niclab.net.route import SCOPES, Family, NextHop, Route
from niclab.topology.model import Node, Topology

from tests.support import bundles
from tests.support.busy import PATIENCE

AT_HAND = bundles.by_minor()
pytestmark = [
    pytest.mark.skipif(not AT_HAND, reason=bundles.REASON),
    pytest.mark.timeout(900),
]

TOPOLOGY = """
name: links
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: 10.0.1.0/24}}
nodes:
  node1:
    nics:
      eth0: {fabric: f0, kind: veth, addresses: [10.0.0.1/24]}
      eth1: {fabric: f1, addresses: [10.0.1.1/24]}
      eth2: {fabric: f1, up: false, addresses: [10.0.1.2/24]}
    routes: [default via 10.0.0.254 dev eth0]
    pod_cidrs: 10.244.1.0/24
"""

LINKS = """
link add mac0 link eth1 type macvlan
address add 10.0.3.1/24 dev mac0
link set mac0 up
link add vx0 type vxlan id 99 dstport 4999
address add 10.0.4.1/24 dev vx0
link set vx0 up
link add ifb0 type ifb
address add 10.0.5.1/24 dev ifb0
address add 10.0.5.2/24 dev ifb0
address add 8.8.8.1/24 dev ifb0
link property add dev ifb0 altname storage
link set ifb0 up
link add br9 type bridge
address add 10.0.6.1/24 dev br9
link set br9 up
link add port0 type veth peer name port1
link set port0 master br9
address add 10.0.7.1/24 dev port0
link set port0 up
link set port1 up
link add lowan0 type ifb
address add 10.0.8.1/24 dev lowan0
link set lowan0 up
link add idle0 type ifb
address add 10.0.9.1/24 dev idle0
link add bare0 type ifb
link set bare0 addrgenmode none
link set bare0 up
link add near0 type ifb
address add 169.254.7.1/16 dev near0
link set near0 up
address add 10.9.9.9/32 dev lo
route add 203.0.113.0/24 nexthop via 10.0.0.253 dev eth0 nexthop via 10.0.1.253 dev eth1
route add local 198.51.100.7 dev ifb0
"""

DEVICES = {
    "unset": ("", False),
    "prefix and odd ones": ("ifb+,br9,idle0,bare0,port0,lowan0,lo,eth9", False),
    "exclusions": ("!ifb0,!eth+,ifb+,mac0", False),
    "exclusion and force": ("!ifb0,vx0", True),
    "alternative name": ("storage", False),
    "force alone": ("", True),
}
RELAXED = Settings.of(kube_proxy_replacement=False, enable_bpf_masquerade=False, enable_ipv4_masquerade=False)


def told(devices: str, force: bool) -> Settings:
    return LAB_BASELINE.merged(RELAXED).merged(Settings.of(devices=devices, force_device_detection=force))


@pytest.fixture(scope="module", params=sorted(AT_HAND) or ["none"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        bundles.use(patch)
        topology: Topology = loads(TOPOLOGY, "links.yaml")
        with Lab.deploy(
            topology,
            told("", False),
            datapath="cilium",
            cilium_version=request.param,
            control_plane="kvstore",
        ) as made:
            ip(agent_of(made), LINKS)
            yield made


def agent_of(lab: Lab) -> Agent:
    assert isinstance(lab._datapath, Cilium)
    return lab._datapath.agents["node1"]


def ip(agent: Agent, lines: str) -> None:
    """Lines of ip(8) in the node."""
    subprocess.run(agent.command(["ip", "-batch", "-"]), input=lines, text=True, check=True, timeout=PATIENCE)


def restart(lab: Lab, settings: Settings) -> Agent:
    lab.change(settings)
    return agent_of(lab)


def link_of(row: Mapping[str, Any]) -> Link:
    names = {number: scope for scope, number in SCOPES.items()}
    own = tuple(
        LinkAddress(ip_interface(one["Addr"]), names[one["Scope"]], one["Secondary"]) for one in row["Addrs"] or ()
    )
    return Link(
        name=row["Name"],
        index=row["Index"],
        kind=row["Type"],
        up=bool(row["RawFlags"] & 1),
        addresses=own,
        master=row["MasterIndex"],
        mtu=row["MTU"],
        altnames=tuple(row.get("AltNames") or ()),
        flags=row["RawFlags"],
    )


def expected(links: Sequence[Link], routes: Sequence[Mapping[str, Any]], choice: Choice) -> dict[int, Device]:
    rows = {RouteRow(row["Table"], row["LinkIndex"], ip_network(row["Dst"])) for row in routes}
    known = {link.index: link for link in links}
    return {link.index: decide(link, rows, known, choice) for link in links}


def looked_at_before_its_parent(row: Mapping[str, Any]) -> bool:
    """An agent that starts looks at links in the order of a Go map, which is by chance (devices_controller.go)."""
    unknown = f"device has parent but parent device could not be found: {row['MasterIndex']}"
    return not row["Selected"] and row["NotSelectedReason"] == unknown


def local_routes(routes: Sequence[Mapping[str, Any]], links: Sequence[Link]) -> list[Route]:
    names = {link.index: link.name for link in links}
    return [
        Route(ip_network(row["Dst"]), (NextHop(dev=names.get(row["LinkIndex"])),), "local", 255, scope="host")
        for row in routes
        if row["Table"] == 255 and row["Scope"] == 254 and not row["Src"]
    ]


@pytest.mark.parametrize("case", DEVICES)
def test_the_agents_tables_are_ours(lab: Lab, case: str) -> None:
    settings = told(*DEVICES[case])
    agent = restart(lab, settings)
    assert agent.exited is None
    version: Version = lab.decisions.version
    view = settings.for_node("node1")
    rows = [row for row in json_rows(agent.table("devices")) if row["Name"]]
    routes = json_rows(agent.table("routes"))
    links = [link_of(row) for row in rows]
    ours = expected(links, routes, Choice.of(view, version))
    wrong = [
        f"{row['Name']}: agent {row['Selected']} {row['NotSelectedReason']!r}, we {ours[row['Index']]}"
        for row in rows
        if (row["Selected"], row["NotSelectedReason"])
        != (ours[row["Index"]].selected, ours[row["Index"]].not_selected_reason)
        and not looked_at_before_its_parent(row)
    ]
    assert wrong == []
    node_ips: dict[Family, Any] = {4: ip_address("10.0.0.1")}
    table = node_addresses(links, list(ours.values()), view, node_ips, version, routes=local_routes(routes, links))
    reported = {
        (row["Addr"], row["DeviceName"], row["Primary"], row["NodePort"])
        for row in json_rows(agent.table("node-addresses"))
    }
    assert {(str(row.address), row.device, row.primary, row.node_port) for row in table} == reported


def test_a_lab_nodes_links_are_what_the_agent_sees(lab: Lab) -> None:
    """Flags, kinds and the order of addresses, as `links_of` foretells them; a physical NIC is a macvlan here."""
    agent = restart(lab, told("", False))
    node: Node = lab.topology.nodes["node1"]
    seen = {row["Name"]: link_of(row) for row in json_rows(agent.table("devices"))}
    for link in links_of(node):
        there = seen[link.name]
        kind = "macvlan" if link.kind == "device" and link.name != "lo" else link.kind
        assert (kind, link.up, link.raw_flags, link.mtu) == (there.kind, there.up, there.raw_flags, there.mtu)
        foretold = [str(one.ip) for one in link.addresses if not (one.version == 6 and one.ip.is_link_local)]
        assert [str(one.ip) for one in there.addresses if str(one.ip) in foretold] == foretold


def test_selection_is_sticky_and_routes_are_stale(lab: Lab) -> None:
    """x4 and x9 of the reference, on the agent that runs: the lost route, the next address, the link down and up.

    eth0 is a veth: its default route is what it is selected for.
    """
    agent = restart(lab, told("", False))

    def chosen() -> bool:
        rows = {row["Name"]: row for row in json_rows(agent.table("devices"))}
        return bool(rows["eth0"]["Selected"])

    def until(condition: Callable[[], bool]) -> bool:
        return wait_until(condition, PATIENCE, every=0.1)

    def default_row() -> bool:
        return any(row["Dst"] == "0.0.0.0/0" and row["Table"] == 254 for row in json_rows(agent.table("routes")))

    assert chosen()
    ip(agent, "route del default\n")
    assert until(lambda: not default_row())
    assert chosen()
    ip(agent, "address add 10.0.0.8/24 dev eth0\n")
    assert until(lambda: not chosen())
    ip(agent, "address del 10.0.0.8/24 dev eth0\nroute add default via 10.0.0.254 dev eth0\n")
    assert until(chosen)
    ip(agent, "link set eth0 down\n")
    assert until(lambda: not chosen())
    ip(agent, "link set eth0 up\n")
    assert until(chosen)
    assert default_row()  # and yet:
    kernel = subprocess.run(agent.command(["ip", "route"]), capture_output=True, text=True, check=True).stdout
    assert "default" not in kernel
