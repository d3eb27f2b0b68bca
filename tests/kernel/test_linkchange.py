"""What the model says of a changed host, and what the kernel has after the same change."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from niclab.check import loads
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.kernel import edit
from niclab.kernel.difference import difference
from niclab.kernel.fib import Fib
from niclab.kernel.plan import Plan
from niclab.net.route import TABLES, Route
from niclab.topology.model import Topology

from tests.support.kernel import privileged

TEXT = """\
name: changing
fabrics: {f0: , f1: }
nodes:
  node1:
    nics:
      eth0: {fabric: f0, addresses: [10.0.0.1/24, 10.0.0.11/24, "fd00::1/64"]}
      eth1: {fabric: f1, addresses: [10.0.1.1/24, "fd01::1/64"]}
    routes:
      - default via 10.0.0.254 dev eth0
      - default via fd00::9 dev eth0
      - 10.7.0.0/16 via 10.0.1.254
      - 10.8.0.0/16 nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1
      - 10.9.0.0/16 dev eth0 src 10.0.0.11
      - 10.10.0.0/16 via 10.0.1.254 dev eth1 table 77
      - blackhole 10.11.0.0/16
      - fd07::/64 nexthop via fd00::9 dev eth0 nexthop via fd01::9 dev eth1
      - fd08::/64 via fd01::9 dev eth1
    rules: [from 10.0.1.1 lookup 77]
"""
START = edit.pinned(loads(TEXT, "changing.yaml"))

Change = Callable[[Topology], Topology]


def down(nic: str) -> Change:
    return lambda topology: edit.link(topology, f"node1.{nic}", up=False)


def up(nic: str) -> Change:
    return lambda topology: edit.link(topology, f"node1.{nic}", up=True)


def unplug(nic: str) -> Change:
    return lambda topology: edit.unplug(topology, f"node1.{nic}")


def plug(nic: str, *addresses: str) -> Change:
    return lambda topology: edit.plug(topology, f"node1.{nic}", fabric="f1", addresses=addresses, mtu=1400, up=True)


def without(nic: str, address: str) -> Change:
    return lambda topology: edit.del_address(topology, f"node1.{nic}", address)


def added(nic: str, address: str) -> Change:
    return lambda topology: edit.add_address(topology, f"node1.{nic}", address)


def routed(words: str) -> Change:
    return lambda topology: edit.add_route(topology, "node1", words)


def unrouted(words: str) -> Change:
    return lambda topology: edit.del_route(topology, "node1", words)


def kept_addresses(topology: Topology) -> Topology:
    return edit.set_sysctl(topology, "node1", "net.ipv6.conf.eth1.keep_addr_on_down", "1")


STORIES: dict[str, list[Change]] = {
    "down and up": [down("eth1"), up("eth1")],
    "the other one": [down("eth0"), up("eth0"), routed("default via 10.0.0.254 dev eth0")],
    "both down": [down("eth0"), down("eth1"), up("eth1"), up("eth0")],
    "addresses kept": [kept_addresses, down("eth1"), up("eth1")],
    "unplugged": [unplug("eth1"), plug("eth1", "10.0.1.5/24"), routed("10.7.0.0/16 via 10.0.1.254")],
    "hot-plugged": [plug("eth2", "10.0.1.51/24", "fd01::51/64"), down("eth2"), up("eth2"), unplug("eth2")],
    "source gone": [without("eth0", "10.0.0.11/24"), added("eth0", "10.0.0.11/24")],
    "primary gone": [without("eth0", "10.0.0.1/24")],
    "last address gone": [without("eth1", "10.0.1.1/24"), added("eth1", "10.0.1.1/24")],
    "IPv6 address gone": [without("eth1", "fd01::1/64"), added("eth1", "fd01::1/64")],
    "routes": [unrouted("10.7.0.0/16 via 10.0.1.254"), unrouted("default via fd00::9"), routed("10.7.0.0/16 dev eth0")],
}


@privileged
@pytest.mark.parametrize("story", STORIES)
def test_the_kernel_ends_up_where_the_model_does_and_comes_back(story: str) -> None:
    ledger = Ledger.open_new(None)
    real = NetnsSubstrate(ledger)
    try:
        plan = Plan(START)
        real.apply(plan.operations)
        states, plans = [START], [plan]
        for change in STORIES[story]:
            after = change(states[-1])
            step = Plan(after, plans[-1].cables)
            real.apply(difference(states[-1], after, plans[-1].cables, step.cables))
            assert routes(real["node1"].name) == expected(after)
            states.append(after)
            plans.append(step)
        real.apply(difference(states[-1], START, plans[-1].cables, Plan(START, plans[-1].cables).cables))
        assert routes(real["node1"].name) == expected(START)
        assert not difference(START, START, plan.cables, plan.cables)
    finally:
        real.close()
        ledger.release()


Row = tuple[str, str, tuple[tuple[str | None, str | None], ...]]


def expected(topology: Topology) -> set[Row]:
    return {_row(route) for route in Fib.of(topology.nodes["node1"]).routes if _counts(route)}


def _counts(route: Route) -> bool:
    return route.kind != "local" and "lo" not in route.devices


def _row(route: Route) -> Row:
    hops = tuple(sorted((str(hop.via) if hop.via else None, hop.dev) for hop in route.nexthops))
    names = {number: name for name, number in TABLES.items()}
    destination = "default" if route.is_default else str(route.destination)
    return names.get(route.table, str(route.table)), destination.removesuffix("/32"), hops


def routes(namespace: str) -> set[Row]:
    found: set[Row] = set()
    for family in ("-4", "-6"):
        command = ["ip", "-j", family, "-n", namespace, "route", "show", "table", "all"]
        for row in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout):
            if row.get("table") == "local" or row["dst"].startswith(("fe80", "ff00", "multicast")):
                continue
            hops = row.get("nexthops") or ([row] if row.get("type", "unicast") == "unicast" else [])
            alive = [(hop.get("gateway"), hop["dev"]) for hop in hops if "dead" not in hop.get("flags", ())]
            found.add((row.get("table", "main"), row["dst"], tuple(sorted(alive))))
    return found
