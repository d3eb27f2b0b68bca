"""Operations that take away what others made."""

from __future__ import annotations

import ipaddress
import re
import subprocess

from niclab.host import readiness
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    DelLink,
    Operation,
    Remove,
    SetLink,
)
from niclab.net.route import parse_route, parse_rule

from tests.support.kernel import privileged, substrate

ROUTES = (
    "10.8.0.0/16 via 10.0.0.254 dev eth0 metric 7",
    "10.9.0.0/16 nexthop via 10.0.0.254 dev eth0 weight 2 nexthop via 10.0.1.254 dev eth1",
    "blackhole 10.10.0.0/16 table 77",
    "fd01::/64 via fd00::9 dev eth0",
)
RULES = ("from 10.244.1.0/24 lookup 77 priority 50", "not to fd00::/8 lookup 77 priority 60")


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
        neighbour = AddNeighbour("node1", "eth0", address, "02:00:00:00:00:09")
        real.apply([neighbour])
        assert len(_state(real["node1"].name)) > len(before)
        real.apply([Remove(neighbour)])
        real.apply([Remove(AddRule("node1", parse_rule(words))) for words in RULES])
        real.apply([Remove(AddRoute("node1", parse_route(words))) for words in ROUTES])
        real.apply([Remove(AddAddress("node1", dev, interface)) for dev, interface in addresses])
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
