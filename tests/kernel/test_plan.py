"""From a topology to kernel operations: the plan as a script, and that iproute2 and this kernel take the script."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from niclab.check import load, loads
from niclab.host.process import run
from niclab.kernel.plan import Plan, cables
from niclab.net.operation import (
    AddCable,
    AddLink,
    AddNamespace,
    AddRoute,
    Operation,
    SetLink,
    script,
)
from niclab.topology.file import names
from niclab.topology.model import Topology

from tests.support.arena import able, in_arena
from tests.support.golden_files import assert_golden

LONG = """\
name: long
fabrics: {f0: {}}
nodes:
  node-of-the-second-rack:
    nics:
      eth0: {fabric: f0, addresses: 10.0.0.1/24, mtu: 9000, mac: '02:aa:00:00:00:01'}
      eth1: {fabric: f0, addresses: 10.0.1.1/24, up: false}
    routes: 10.9.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3 weight 2
    rules: [from 10.9.0.0/16 lookup 100, from all lookup 101, -6 from all lookup 102]
    sysctls: {net.ipv4.conf.eth0.rp_filter: 1, net/ipv6/conf/eth1/accept_ra: 0}
"""


@pytest.mark.parametrize("name", ["two-nic", "dual-stack"])
def test_the_plan_as_a_script(name: str) -> None:
    assert_golden(f"{name}.sh", script(Plan(load(name)).operations))


def test_the_plan_of_what_is_unusual() -> None:
    assert_golden("long.sh", script(Plan(loads(LONG, "long.yaml")).operations))


def test_the_same_topology_gives_the_same_plan() -> None:
    assert Plan(load("routed")).operations == Plan(load("routed")).operations


@pytest.mark.parametrize("name", names())
def test_every_name_and_mac_is_used_once(name: str) -> None:
    found = cables(load(name))
    assert len({one.tap for one in found}) == len({one.port for one in found}) == len(found)
    macs = [mac for one in found for mac in (one.mac, one.port_mac)]
    assert len(set(macs)) == len(macs)
    assert all(len(one.port) <= 15 and int(one.mac[:2], 16) & 3 == 2 for one in found)


@pytest.mark.parametrize("name", names())
def test_nothing_is_used_before_it_is_made(name: str) -> None:
    made: set[str] = set()
    links: set[tuple[str, str]] = set()
    up: set[tuple[str, str]] = set()
    for operation in Plan(load(name)).operations:
        if isinstance(operation, AddNamespace):
            made.add(operation.namespace)
            continue
        assert operation.namespace in made
        if isinstance(operation, AddCable):
            links |= {(operation.namespace, operation.name), (operation.peer_namespace, operation.peer_name)}
        if isinstance(operation, AddLink):
            links.add((operation.namespace, operation.name))
        if isinstance(operation, SetLink):
            assert (operation.namespace, operation.name) in links
            up.add((operation.namespace, operation.name))
        if isinstance(operation, AddRoute):
            assert {(operation.namespace, dev) for dev in operation.route.devices} <= up


@able
@pytest.mark.parametrize(
    "make", [lambda: load("dual-stack"), lambda: loads(LONG, "long.yaml")], ids=["dual-stack", "long"]
)
def test_iproute2_takes_the_script(make: Callable[[], Topology]) -> None:
    """The lines that are shown for pasting do what the operations say, with the tools they name."""
    topology = make()
    operations = Plan(topology).operations
    found = in_arena(lambda: _run_script(operations, [*topology.hosts]))
    for name, host in topology.hosts.items():
        addresses, routes = found[name]
        assert {str(one) for nic in host.nics.values() for one in nic.addresses} <= addresses
        assert {str(route.destination) for route in host.routes if not route.is_default} <= routes


def _run_script(operations: tuple[Operation, ...], hosts: list[str]) -> dict[str, tuple[set[str], set[str]]]:
    run(["bash", "-euc", script(operations)])
    found = {}
    for name in hosts:
        links = json.loads(run(["ip", "-n", name, "-j", "addr"]))
        addresses = {f"{one['local']}/{one['prefixlen']}" for link in links for one in link["addr_info"]}
        both = [json.loads(run(["ip", family, "-n", name, "-j", "route"])) for family in ("-4", "-6")]
        found[name] = addresses, {str(route["dst"]) for routes in both for route in routes}
    return found
