"""The FIB as a pure function: its own rules, and agreement with the kernel's."""

from __future__ import annotations

import os
import random
from ipaddress import ip_address

import pytest
from niclab.kernel.fib import Fib
from niclab.kernel.routing import check_route, check_rule
from niclab.net.route import Address, Family, numbered, parse_route, parse_rule
from niclab.topology.model import External, Host

from tests.support.kernel import Answer, RealHost, privileged, substrate

HOSTS, SEED = int(os.environ.get("NICLAB_TEST_HOSTS", "75")), int(os.environ.get("NICLAB_TEST_SEED", "20"))
NETS: dict[Family, tuple[str, ...]] = {
    4: ("10.0.0", "10.0.1", "10.0.2"),
    6: ("fd00:0:0:0", "fd00:0:0:1", "fd00:0:0:2"),
}
FAR: dict[Family, tuple[str, ...]] = {
    4: ("10.9.0.0/16", "10.9.1.0/24", "10.9.1.64/26", "10.9.1.77/32", "10.0.0.0/14", "10.0.1.32/27", "default"),
    6: (
        "fd09::/32",
        "fd09:0:1::/48",
        "fd09:0:1::40/122",
        "fd09:0:1::4d/128",
        "fd00::/16",
        "fd00:0:0:1::20/123",
        "default",
    ),
}
TARGETS: dict[Family, tuple[str, ...]] = {
    4: ("10.9.1.77", "10.9.1.70", "10.9.1.5", "10.9.3.5", "10.0.0.9", "10.0.1.40", "10.0.2.9", "10.3.0.1", "192.0.2.1"),
    6: (
        "fd09:0:1::4d",
        "fd09:0:1::46",
        "fd09:0:1::5",
        "fd09:3::5",
        "fd00::9",
        "fd00:0:0:1::28",
        "fd00:0:0:2::9",
        "fd00:3::1",
        "2001:db8::1",
    ),
}
SOMEWHERE: dict[Family, tuple[str, ...]] = {
    4: ("10.0.0.0/24", "10.0.1.0/24", "10.9.0.0/16", "0.0.0.0/0"),
    6: ("fd00::/64", "fd09::/16", "::/0"),
}


def host(*routes: str, rules: tuple[str, ...] = (), down: tuple[str, ...] = ()) -> External:
    nics = {f"eth{n}": {"fabric": "f", "addresses": [f"10.0.{n}.1/24"], "up": f"eth{n}" not in down} for n in range(3)}
    return External.model_validate({"nics": nics, "routes": list(routes), "rules": list(rules)})


class World:
    """A random host, and the words that describe it when a comparison fails."""

    def __init__(self, chance: random.Random, family: Family) -> None:
        self.chance = chance
        self.family = family
        nics: dict[str, object] = {}
        for number in range(3):
            net = NETS[family][number if chance.random() < 0.8 else chance.randrange(3)]
            addresses = [self.address(net, number + 1)] if chance.random() < 0.9 else []
            if addresses and chance.random() < 0.15:
                addresses.append(self.address(chance.choice(NETS[family]), number + 11))
            nics[f"eth{number}"] = {"fabric": "f", "addresses": addresses, "up": chance.random() < 0.9}
        self.host: Host = External.model_validate({"nics": nics})

    def address(self, net: str, number: int) -> str:
        return f"{net}.{number}/24" if self.family == 4 else f"{net}::{number:x}/64"

    def gateway(self) -> str:
        net, number = self.chance.choice(NETS[self.family]), self.chance.choice((1, 2, 250, 251, 252))
        return f"{net}.{number}" if self.family == 4 else f"{net}::{number:x}"

    def hop(self) -> str:
        dev = f"dev eth{self.chance.randrange(3)}"
        via = f"via {self.gateway()}"
        return self.chance.choices((via, f"{via} {dev}", dev, f"{via} {dev} onlink"), (4, 4, 2, 1))[0]

    def route(self) -> str:
        words = "-6 " if self.family == 6 else ""
        shape = self.chance.random()
        destination = self.chance.choice(FAR[self.family])
        if shape < 0.12:
            words += f"{self.chance.choice(('blackhole', 'unreachable', 'prohibit', 'throw'))} {destination}"
        elif shape < 0.3:
            words += f"{destination} nexthop {self.hop()} nexthop {self.hop()} weight 2"
            words = words.replace("onlink", "")
        else:
            words += f"{destination} {self.hop()}"
        if "nexthop" not in words:
            words += self.chance.choice(("", "", "", " metric 5", " metric 500", " metric 2000", " metric 0"))
            words += self.chance.choice(("", "", "", " table 100", " table 101", " table default"))
        return words

    def rule(self) -> str:
        words = "-6 " if self.family == 6 else ""
        words += "not " if self.chance.random() < 0.15 else ""
        words += self.chance.choice(("from all", f"from {self.somewhere()}", f"to {self.somewhere()}"))
        words += self.chance.choice(
            ("", "", "", " iif lo", " iif eth0", " oif eth1", " fwmark 0x1", " fwmark 0x0/0xff")
        )
        words += self.chance.choice((" lookup 100", " lookup 101", " lookup main", " unreachable", " blackhole"))
        return words + self.chance.choice(("", "", " priority 50", " priority 0", " priority 40000"))

    def somewhere(self) -> str:
        return self.chance.choice(SOMEWHERE[self.family])


@privileged
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_agrees(family: Family) -> None:
    """What the checks refuse the kernel refuses; where the FIB sends packets the kernel sends them."""
    seed = SEED + family
    chance = random.Random(seed)
    disagreements: list[str] = []
    asked = 0
    with substrate() as real:
        for number in range(HOSTS):
            world = World(chance, family)
            node = RealHost(real, f"h{number}", world.host)
            for _ in range(7):
                disagreements += _add_route(world, node)
            for _ in range(chance.choice((0, 0, 1, 2, 3))):
                disagreements += _add_rule(world, node)
            for _ in range(12):
                asked += 1
                disagreements += _compare(world, node)
            node.close()
    assert not disagreements, f"seed {seed}: {len(disagreements)} of {asked}\n" + "\n".join(disagreements[:8])


def _add_rule(world: World, node: RealHost) -> list[str]:
    words = world.rule()
    rule = parse_rule(words)
    *_, made = numbered((*world.host.rules, rule))
    expected, reported = check_rule(world.host, rule), node.takes(made)
    if reported is None:
        world.host = world.host.model_copy(update={"rules": (*world.host.rules, rule)})
    if (expected is None) == (reported is None):
        return []
    return [f"rule {words}: expected {expected}, kernel {reported}\n{_described(world.host)}"]


def _add_route(world: World, node: RealHost) -> list[str]:
    words = world.route()
    try:
        route = parse_route(words)
    except ValueError:
        return []
    expected, reported = check_route(world.host, route), node.takes(route)
    if reported is None:
        world.host = world.host.model_copy(update={"routes": (*world.host.routes, route)})
    if (expected is None) == (reported is None):
        return []
    return [f"route {words}: expected {expected}, kernel {reported}\n{_described(world.host)}"]


def _compare(world: World, node: RealHost) -> list[str]:
    chance, family, host = world.chance, world.family, world.host
    destination = ip_address(chance.choice(TARGETS[family]))
    up = [name for name, nic in host.nics.items() if nic.up]
    own = [one.ip for name in up for one in host.nics[name].addresses]
    source: Address | None = None
    iif = oif = None
    shape = chance.random()
    fib = Fib.of(host)
    if shape < 0.25 and up:
        oif = chance.choice(up)
    elif shape < 0.5 and own:
        source = chance.choice(own)
    elif shape < 0.75 and up and family == 4:
        # `ip -6 route get … iif` asks for a route out of that same device, which forwarding does not (route.c).
        iif, source = chance.choice(up), ip_address(chance.choice(("10.244.1.5", "10.0.1.200", "10.9.4.4")))
        back = fib.lookup(source, source=destination)
        if back is not None and back.is_local:
            return []
    found = fib.lookup(destination, source=source, iif=iif, oif=oif)
    reported = node.get(destination, source=source, iif=iif, oif=oif)
    if found is None or not found.hops:
        expected = {Answer("refused")}
        if oif and family == 4:
            expected = {Answer("unicast", oif)}  # the kernel takes what has no route for a neighbour
    elif found.is_local:
        expected = {Answer("local")}
    else:
        expected = {Answer("unicast", hop.dev, str(hop.via) if hop.via else None) for hop in found.hops}
    if reported in expected:
        return []
    return [f"get {destination} from {source} iif {iif} oif {oif}: {expected}, kernel {reported}\n{_described(host)}"]


def _described(host: Host) -> str:
    nics = [f"{name} {nic.up} {' '.join(map(str, nic.addresses))}" for name, nic in host.nics.items()]
    return "\n".join(f"    {line}" for line in (*nics, *map(str, host.routes), *map(str, numbered(host.rules))))


def test_longest_prefix_then_metric_then_order_of_tables() -> None:
    fib = Fib.of(
        host(
            "default via 10.0.0.254",
            "10.9.0.0/16 via 10.0.1.254 metric 10",
            "10.9.0.0/16 via 10.0.2.254 metric 5",
            "10.9.1.0/24 dev eth0 table 100",
            rules=("from 10.244.0.0/16 lookup 100",),
        )
    )
    assert _devices(fib, "192.0.2.1") == {"eth0"}
    assert _devices(fib, "10.9.1.1") == {"eth2"}
    assert _devices(fib, "10.9.1.1", source="10.244.1.1") == {"eth0"}
    assert _devices(fib, "10.9.2.1", source="10.244.1.1") == {"eth2"}
    assert _devices(fib, "10.9.2.1", oif="eth1") == {"eth1"}


def test_every_allowed_hop_of_a_multipath_route_is_named() -> None:
    fib = Fib.of(host("default nexthop via 10.0.0.254 nexthop via 10.0.1.254 weight 3"))
    assert _devices(fib, "192.0.2.1") == {"eth0", "eth1"}
    assert _devices(fib, "192.0.2.1", oif="eth1") == {"eth1"}
    assert fib.lookup(ip_address("192.0.2.1"), oif="eth2") is None


def test_refusals_and_what_is_thrown_on() -> None:
    refused = Fib.of(host("blackhole 10.9.0.0/16")).lookup(ip_address("10.9.1.1"))
    assert refused is not None
    assert (refused.route.kind, refused.hops) == ("blackhole", ())
    fib = Fib.of(host("throw 10.9.0.0/16 table 100", "default dev eth1", rules=("from all lookup 100",)))
    assert _devices(fib, "10.9.1.1") == {"eth1"}
    ruled = Fib.of(host("default dev eth1", rules=("to 10.9.0.0/16 prohibit",))).lookup(ip_address("10.9.1.1"))
    assert ruled is not None
    assert (ruled.route.kind, ruled.hops) == ("prohibit", ())


def test_what_the_host_sends_itself_comes_in_by_lo() -> None:
    fib = Fib.of(host("default dev eth0", "default dev eth1 table 100", rules=("iif lo lookup 100",)))
    assert _devices(fib, "192.0.2.1") == {"eth1"}
    assert _devices(fib, "192.0.2.1", iif="eth2") == {"eth0"}


def test_a_nic_that_is_down_is_reached_and_reaches_nothing() -> None:
    fib = Fib.of(host(down=("eth1",)))
    found = fib.lookup(ip_address("10.0.1.1"))
    assert found is not None
    assert found.is_local
    assert fib.lookup(ip_address("10.0.1.2")) is None


def test_the_source_of_what_the_host_sends() -> None:
    one = host("10.9.0.0/16 via 10.0.1.254 src 10.0.2.1", "default via 10.0.1.254")
    fib = Fib.of(one)
    for target, source in (("10.9.1.1", "10.0.2.1"), ("192.0.2.1", "10.0.1.1"), ("10.0.2.9", "10.0.2.1")):
        found = fib.lookup(ip_address(target))
        assert found is not None
        assert str(fib.source_for(ip_address(target), found, one)) == source


def test_the_source_by_a_device_without_addresses_is_another_links() -> None:
    one = External.model_validate(
        {
            "nics": {"eth0": {"fabric": "f"}, "eth1": {"fabric": "f", "addresses": ["10.0.1.1/24", "10.0.5.1/24"]}},
            "routes": ["10.0.9.0/24 dev eth0", "10.9.0.0/16 dev eth1"],
        }
    )
    fib = Fib.of(one)
    for target, source in (("10.0.9.9", "10.0.1.1"), ("10.9.0.9", "10.0.1.1"), ("10.0.5.9", "10.0.5.1")):
        found = fib.lookup(ip_address(target))
        assert found is not None
        assert str(fib.source_for(ip_address(target), found, one)) == source


def _devices(
    fib: Fib, target: str, source: str | None = None, iif: str | None = None, oif: str | None = None
) -> set[str]:
    found = fib.lookup(ip_address(target), source=ip_address(source) if source else None, iif=iif, oif=oif)
    return set(found.devices) if found else set()
