"""Messages that take away what others made: the same body under the opposite type; and the kernel agrees."""

from __future__ import annotations

import ipaddress
import re
import subprocess

import pytest
from niclab.host import netlink, readiness, removal
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    DelAddress,
    DelLink,
    DelNeighbour,
    DelRoute,
    DelRule,
    Operation,
    SetLink,
)
from niclab.net.route import parse_route, parse_rule
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tests.support.kernel import privileged, substrate
from tests.support.netlink import decoded

INDICES = {"eth0": 2, "eth1": 3}
ROUTES = (
    "10.8.0.0/16 via 10.0.0.254 dev eth0 metric 7",
    "10.9.0.0/16 nexthop via 10.0.0.254 dev eth0 weight 2 nexthop via 10.0.1.254 dev eth1",
    "blackhole 10.10.0.0/16 table 77",
    "fd01::/64 via fd00::9 dev eth0",
)
RULES = ("from 10.244.1.0/24 lookup 77 priority 50", "not to fd00::/8 lookup 77 priority 60")


def test_link() -> None:
    found = decoded(ifinfmsg, removal.del_link(7))
    wanted = {"family": 0, "ifi_type": 0, "index": 7, "flags": 0, "change": 0, "state": "down"}
    assert found == wanted | {"type": 17, "request": 1}
    assert DelLink("node1", "eth0").lines() == ["ip -n node1 link delete eth0"]


@pytest.mark.parametrize("words", ROUTES)
def test_route(words: str) -> None:
    route = parse_route(words)
    made = decoded(rtmsg, netlink.add_route(AddRoute("node1", route), INDICES.__getitem__))
    found = decoded(rtmsg, removal.del_route(DelRoute("node1", route), INDICES.__getitem__))
    assert found == made | {"type": 25, "request": 1}


def test_rule_address_and_neighbour() -> None:
    for words in RULES:
        rule = parse_rule(words)
        made = decoded(fibmsg, netlink.add_rule(AddRule("node1", rule)))
        assert decoded(fibmsg, removal.del_rule(DelRule("node1", rule))) == made | {"type": 33, "request": 1}
    for text in ("10.0.0.1/24", "fd00::1/64"):
        interface = ipaddress.ip_interface(text)
        made = decoded(ifaddrmsg, netlink.add_address(AddAddress("node1", "eth0", interface), 2))
        found = decoded(ifaddrmsg, removal.del_address(DelAddress("node1", "eth0", interface), 2))
        assert found == made | {"type": 21, "request": 1}
    address = ipaddress.ip_address("10.0.0.9")
    found = decoded(ndmsg, removal.del_neighbour(DelNeighbour("node1", "eth0", address), 2))
    assert (found["type"], found["NDA_DST"], found["ifindex"]) == (29, "10.0.0.9", 2)


@privileged
def test_a_namespace_is_as_it_was_when_all_is_taken_away_again() -> None:
    with substrate() as real:
        base: list[Operation] = [
            AddNamespace("node1"),
            AddCable("fabric", "p0", "02:01:00:00:00:01", "node1", "eth0", "02:00:00:00:00:01"),
            AddCable("fabric", "p1", "02:01:00:00:00:02", "node1", "eth1", "02:00:00:00:00:02"),
            SetLink("node1", "eth0"),
            SetLink("node1", "eth1"),
        ]
        real.apply(base)
        readiness.wait(real)  # a link that is not activated yet shows other flags
        before = _state(real["node1"].name)
        interfaces = [("eth0", "10.0.0.1/24"), ("eth1", "10.0.1.1/24"), ("eth0", "fd00::1/64")]
        addresses = [(dev, ipaddress.ip_interface(text)) for dev, text in interfaces]
        address = ipaddress.ip_address("10.0.0.9")
        real.apply([AddAddress("node1", dev, interface) for dev, interface in addresses])
        real.apply([AddRoute("node1", parse_route(words)) for words in ROUTES])
        real.apply([AddRule("node1", parse_rule(words)) for words in RULES])
        real.apply([AddNeighbour("node1", "eth0", address, "02:00:00:00:00:09")])
        assert len(_state(real["node1"].name)) > len(before)
        real.apply([DelNeighbour("node1", "eth0", address)])
        real.apply([DelRule("node1", parse_rule(words)) for words in RULES])
        real.apply([DelRoute("node1", parse_route(words)) for words in ROUTES])
        real.apply([DelAddress("node1", dev, interface) for dev, interface in addresses])
        assert _state(real["node1"].name) == before
        real.apply([DelLink("node1", "eth1")])
        assert not any("eth1" in line for line in _state(real["node1"].name))


def _state(name: str) -> list[str]:
    shown = (["addr"], ["-4", "route", "show", "table", "all"], ["-6", "route", "show", "table", "all"], ["-4", "rule"])
    found: list[str] = []
    for words in (*shown, ["-6", "rule"], ["neigh", "show", "nud", "permanent"], ["-o", "link"]):
        reported = subprocess.run(
            ["ip", "-n", name, *words], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        found += [line for line in reported if "inet" in line] if words == ["addr"] else reported
    # What the kernel adds for link-locals comes when it likes; so does a link's state.
    return [re.sub(" state [A-Z]+", "", line) for line in found if "fe80" not in line and "ff00" not in line]
