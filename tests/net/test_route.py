"""Routes and rules in iproute2's words."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.host.process import run
from niclab.net.route import NextHop, Route, Rule, numbered, parse_route, parse_rule

from tests.support.kernel import privileged, substrate

ROUTES = [
    "default via 10.0.0.254 dev eth0",
    "10.9.0.0/16 via 10.0.0.254",
    "10.9.1.1/32 dev eth0 scope host",
    "10.9.0.0/16 dev eth0 table 100 proto static scope link src 10.0.0.1 metric 5 mtu 1400",
    "default metric 7 nexthop via 10.0.0.254 dev eth0 weight 1 nexthop via 10.0.1.254 dev eth1 weight 3",
    "10.9.0.0/16 via 192.0.2.1 dev eth0 onlink",
    "blackhole 10.9.0.0/16",
    "throw 10.9.0.0/16 table 100",
    "local 10.9.0.0/16 dev lo",
    "local 10.9.0.0/16 dev lo table 254",
    "-6 default dev eth0",
    "-6 unreachable default metric 4000",
    "default via fe80::1 dev eth0",
    "fd00:9::/48 via fd00::254 proto bgp",
]


@pytest.mark.parametrize("words", ROUTES)
def test_a_route_is_rendered_as_it_is_read(words: str) -> None:
    assert str(parse_route(words)) == words


@pytest.mark.parametrize(
    ("written", "rendered"),
    [
        ("unicast all via 10.0.0.254 table main", "default via 10.0.0.254"),
        ("0.0.0.0/0 via 10.0.0.254", "default via 10.0.0.254"),
        ("::/0 dev eth0", "-6 default dev eth0"),
        ("10.9.1.1 dev eth0 preference 0x10", "10.9.1.1/32 dev eth0 metric 16"),
        ("10.9.0.0/16 dev eth0 via inet 10.0.0.254 mtu lock 1400", "10.9.0.0/16 via 10.0.0.254 dev eth0 mtu 1400"),
        ("-4 default dev eth0 table local", "default dev eth0 table 255"),
        ("default dev eth0 proto 99", "default dev eth0 proto 99"),
    ],
)
def test_what_may_be_written_in_other_words(written: str, rendered: str) -> None:
    assert str(parse_route(written)) == rendered


WRONG_ROUTES = {
    "": "the line ends where a destination should stand",
    "default": "the route names neither a gateway (via) nor a device (dev)",
    "default via": "the line ends where the gateway should stand",
    "default via ten": "the gateway 'ten' is not an IP address",
    "default via fe80::1%eth0 dev eth0": "the gateway 'fe80::1%eth0' is not an IP address",
    "default via fe80::1": "the link-local gateway fe80::1 needs a device (dev)",
    "default dve eth0": "'dve' is not a word of a route (did you mean 'dev'?)",
    "default dev eth0 dev eth1": "'dev' is there twice",
    "default dev eth0 metric -1": "metric -1 is out of range 0..4294967295",
    "default dev eth0 metric low": "metric 'low' is not a number",
    "default dev eth0 table blue": "table 'blue' is neither a number nor one of local, main, default",
    "default dev eth0 table 0": "table 0 stands for no table",
    "default dev eth0 table 4294967296": "table '4294967296' is neither a number nor one of local, main, default",
    "default dev eth0 scope galaxy": "scope 'galaxy' is not one of global, site, link, host",
    "default dev eth0 mtu 10": "mtu 10 is out of range 68..65535",
    "10.0.0.1/24 dev eth0": "'10.0.0.1/24' has host bits set: the network is 10.0.0.0/24",
    "10.0.0/24 dev eth0": "'10.0.0/24' is not a network (want ADDRESS/LENGTH)",
    "10.0.0.0/8 via fd00::1": "10.0.0.0/8 and its gateway or source are of different families",
    "default via 10.0.0.1 src fd00::1": "0.0.0.0/0 and its gateway or source are of different families",
    "-6 10.0.0.0/8 dev eth0": "-6 and 10.0.0.0/8 are of different families",
    "default dev eth0 nexthop via 10.0.0.1": "a route has either `via`/`dev` or `nexthop`s, not both",
    "default nexthop weight 2": "a nexthop names neither a gateway (via) nor a device (dev)",
    "default nexthop via 10.0.0.1 weight 0": "weight 0 is out of range 1..256",
    "default via 10.0.0.1 onlink": "`onlink` needs both a gateway (via) and a device (dev)",
    "default via 10.0.0.1 scope link": "a route of scope link has no gateway",
    "local 10.9.0.0/16 dev lo scope link": "a local route has scope host, not link",
    "blackhole 10.9.0.0/16 dev eth0": "a blackhole route has neither a gateway nor a device",
    "-6 default nexthop dev eth0 nexthop via fd00::1": "every nexthop of an IPv6 route has a gateway (via)",
}


@pytest.mark.parametrize("words", WRONG_ROUTES)
def test_a_wrong_route_says_which_word(words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_route(words)
    assert str(caught.value) == WRONG_ROUTES[words]


@pytest.mark.parametrize(
    "words",
    [
        "from all lookup 100",
        "from 10.244.1.0/24 lookup 100 priority 50",
        "not from 10.244.1.0/24 to 10.0.0.0/8 lookup 254",
        "from all fwmark 0x200/0xf00 lookup 2004 priority 9",
        "from all iif lo oif eth1 prohibit",
        "-6 from all iif eth0 lookup 100",
        "from fd00::/64 blackhole",
    ],
)
def test_a_rule_is_rendered_as_it_is_read(words: str) -> None:
    assert str(parse_rule(words)) == words


WRONG_RULES = {
    "": "the rule names no table (`lookup TABLE`)",
    "from 10.0.0.0/8": "the rule names no table (`lookup TABLE`)",
    "from 10.0.0.0/8 lokup 5": "'lokup' is not a word of a rule (did you mean 'lookup'?)",
    "from 10.0.0.0/8 to fd00::/8 lookup 5": "10.0.0.0/8 and fd00::/8 are of different families",
    "-6 from 10.0.0.0/8 lookup 5": "-6 and 10.0.0.0/8 are of different families",
    "from all fwmark red lookup 5": "fwmark 'red' is not VALUE[/MASK], each of 32 bits",
    "from all fwmark -1 lookup 5": "fwmark '-1' is not VALUE[/MASK], each of 32 bits",
    "from all lookup 5 prohibit": "a rule that says prohibit looks up no table",
    "from all from all lookup 5": "'from' is there twice",
    "from all lookup 5 priority 5000000000": "priority 5000000000 is out of range 0..4294967295",
}


@pytest.mark.parametrize("words", WRONG_RULES)
def test_a_wrong_rule_says_which_word(words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rule(words)
    assert str(caught.value) == WRONG_RULES[words]


_LINE = (
    "default all via dev onlink nexthop weight table metric mtu src scope proto link host eth0 eth1 10.0.0.254 "
    "10.9.0.0/16 fd00::1 fd00::/64 -6 -4 5 100 main local blackhole inet6 from to not lookup iif oif fwmark 0x1/0x1 "
    "priority prohibit"
)
_WORDS = st.sampled_from(_LINE.split())


@given(st.lists(_WORDS, max_size=9).map(" ".join) | st.text(max_size=30))
def test_any_words_are_a_route_that_renders_or_a_value_error(words: str) -> None:
    for parse in (parse_route, parse_rule):
        try:
            parsed = parse(words)
        except ValueError as error:
            assert str(error)
        else:
            again = parse(str(parsed))
            assert (again, again.family) == (parsed, parsed.family)


def test_the_metric_that_the_kernel_uses() -> None:
    v4, v6 = ip_network("0.0.0.0/0"), ip_network("::/0")
    assert Route(v4).effective_metric == 0
    assert Route(v6).effective_metric == Route(v6, metric=0).effective_metric == 1024
    assert Route(v6, metric=5).effective_metric == 5


def test_a_bare_device_is_a_link() -> None:
    bare = Route(ip_network("10.9.0.0/16"), (NextHop(dev="eth0"),))
    assert bare.effective_scope == "link"
    assert parse_route("default via 10.0.0.1").effective_scope == "global"


def test_families_are_numbered_apart() -> None:
    rules = (
        Rule(100),
        Rule(101, explicit_family=6),
        Rule(102),
        Rule(103, priority=10),
        Rule(104),
        Rule(105, priority=0),
    )
    assert [rule.priority for rule in numbered((*rules, Rule(106)))] == [32765, 32765, 32764, 10, 9, 0, 0]


@privileged
@pytest.mark.parametrize("words", ["", "priority 100 -", "- priority 0 - -", "priority 1 - - priority 7 -"])
def test_rules_get_the_priorities_that_the_kernel_gives(words: str) -> None:
    rules = [f"from 10.9.{n}.0/24 lookup 100 {'' if one == '-' else one}" for n, one in enumerate(_split(words))]
    rules += ["from 10.8.0.0/16 lookup 100"]
    with substrate() as real, real["fabric"].entered():
        for rule in rules:
            run(["ip", "rule", "add", *rule.split()])
        found = json.loads(run(["ip", "-j", "rule"]))
    kernel = [(one["priority"], one["src"]) for one in found if one["src"] != "all"]
    made = numbered(tuple(parse_rule(rule) for rule in rules))
    order = sorted(made, key=lambda rule: rule.priority or 0)
    assert [(rule.priority, str(rule.source).partition("/")[0]) for rule in order] == kernel


def _split(words: str) -> list[str]:
    found: list[str] = []
    for word in words.split():
        if word.isdecimal():
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found
