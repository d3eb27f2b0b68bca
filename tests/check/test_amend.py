"""What is added to a topology on the command line and by marks."""

from __future__ import annotations

import pytest
from niclab.check import load
from niclab.check.amend import Amendments, amend
from niclab.errors import InputError

TWO_NIC = load("two-nic")


def test_nothing_to_amend_is_the_same_topology() -> None:
    assert amend(TWO_NIC, Amendments()) is TWO_NIC
    assert not Amendments()


def test_every_kind_of_line() -> None:
    made = amend(
        TWO_NIC,
        Amendments(
            routes=("all: 10.9.0.0/16 via 10.0.1.254", "ext1: 10.8.0.0/16 via 10.0.1.254"),
            rules=("node1: from 10.244.1.0/24 lookup 100",),
            sysctls=("all: net.ipv4.fib_multipath_hash_policy=1",),
            node_ips=("node2: 10.0.1.2",),
            default_routes=False,
        ),
    )
    assert [str(route) for route in made.nodes["node1"].routes] == ["10.9.0.0/16 via 10.0.1.254"]
    assert str(made.externals["ext1"].routes[-1]) == "10.8.0.0/16 via 10.0.1.254"
    assert len(made.nodes["node1"].rules) == 1
    assert made.nodes["node2"].sysctls == {"net.ipv4.fib_multipath_hash_policy": "1"}
    assert str(made.nodes["node2"].node_ip_of(4)) == "10.0.1.2"
    assert str(made.nodes["node1"].node_ip_of(4)) == "10.0.0.1"
    assert TWO_NIC.nodes["node1"].sysctls == {}


@pytest.mark.parametrize(
    ("amendments", "message"),
    [
        (Amendments(routes=("10.9.0.0/16 via 10.0.1.254",)), "it names no node"),
        (Amendments(routes=("node9: 10.9.0.0/16 via 10.0.1.254",)), "there is no node 'node9'"),
        (Amendments(routes=("node1: default via 10.0.0.254",)), "has 'default via 10.0.0.254"),
        (Amendments(routes=("node1: 10.9.0.0/16 via 10.77.0.1",)), "on node1"),
        (Amendments(rules=("node1: from nowhere",)), "nowhere"),
        (Amendments(sysctls=("node1: kernel.panic=1",)), "is not net.KEY=VALUE"),
        (Amendments(sysctls=("all: net.ipv4.conf.eth0.rp_filtr=1",)), r"did you mean net\.ipv4\.conf\.eth0\.rp_filter"),
        (Amendments(sysctls=("node2: net.ipv4.conf.eth9.rp_filter=1",)), "on node2: there is no NIC 'eth9' here"),
        (Amendments(node_ips=("node1: 10.0.0.77",)), "node1 has no address 10.0.0.77"),
        (Amendments(node_ips=("ext0: 10.0.0.100",)), "ext0 is no node"),
    ],
)
def test_a_line_that_cannot_be(amendments: Amendments, message: str) -> None:
    with pytest.raises(InputError, match=message):
        amend(TWO_NIC, amendments)


def test_marks_add_up() -> None:
    both = Amendments(routes=("a",)).merged(Amendments(routes=("b",), default_routes=False))
    assert both == Amendments(routes=("a", "b"), default_routes=False)
    assert both.described == {"routes": "a; b", "default_routes": "none"}


@pytest.mark.parametrize("given", [{"route": ["x"]}, {"routes": "x"}, {"default_routes": 1}])
def test_a_mark_that_takes_something_else(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="takes lists of lines"):
        Amendments.of(given)
