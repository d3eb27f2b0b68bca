"""A probe that connection tracking drops, because two CPUs bring the beginning of a flow at once, is not the lab's.

Before Linux 6.4 that happens to many a new lab's first flow, for ARP requests and neighbour solicitations reach a
macvlan by way of a work queue. Newer kernels do the same with IFLA_MACVLAN_BC_CUTOFF 0.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from niclab import LAB_BASELINE, Lab, Settings
from niclab.host import messages, readiness
from niclab.net.route import Address
from niclab.topology.model import asked
from niclab.wire import measure
from niclab.wire.measure import Observed, Order, connection_clashes
from niclab.wire.probe import Protocol, build

from tests.support.kernel import privileged

COUNT, ROUNDS = 40, 25
FLOWS = ("pod1 -> pod2", "ext1 -> node2.eth1", "pod1 -> pod2:icmp6")
HERE, THERE, ELSEWHERE = (ip_address(f"10.0.0.{number}") for number in (1, 2, 3))


@pytest.fixture(scope="module")
def older() -> Iterator[Lab]:
    """A lab as a kernel before 6.4 builds it."""
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1", enable_ipv6=True, enable_ipv6_masquerade=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "_BC_CUTOFF", 0)
        messages._encoded_macvlan.cache_clear()
        try:
            with Lab.deploy("dual-stack", settings) as lab:
                yield lab
        finally:
            messages._encoded_macvlan.cache_clear()


def verdicts(lab: Lab) -> Counter[str]:
    """Of flows each of which begins where no neighbour is known."""
    found: Counter[str] = Counter()
    for flow in FLOWS * ROUNDS:
        readiness.forget_neighbours(lab._substrate, lab.topology.hosts)
        result = lab.send_all([flow], count=COUNT)[0]
        found[result.verdict] += 1
        if result.verdict == "unmeasured":
            assert "on two CPUs at once" in str(result.measurement)
    return found


def clashes(lab: Lab) -> int:
    return sum(connection_clashes(lab._substrate[host]) for host in lab.topology.hosts)


@privileged
def test_no_probe_is_lost_where_neighbours_answer_from_a_work_queue(older: Lab) -> None:
    before = clashes(older)
    assert verdicts(older) == {"carried": len(FLOWS) * ROUNDS}
    assert clashes(older) == before


@privileged
def test_a_probe_that_is_lost_so_is_unmeasured(older: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent all at once, some flows lose one."""
    monkeypatch.setattr(measure, "_turns", lambda sendings: [list(sendings)])
    assert verdicts(older).keys() <= {"carried", "unmeasured"}


@privileged
def test_only_what_is_not_answered_is_unmeasured(older: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with older.link_down("ext1.eth0"):
        assert older.send("pod1", "ext1").verdict == "lost"
        numbers = itertools.count()
        monkeypatch.setattr(measure, "connection_clashes", lambda _: next(numbers))
        lost = older.send("pod1", "ext1")
        assert lost.verdict == "unmeasured"
        assert "connections of node1" in str(lost.measurement)
        assert older.send("pod1", "ext0").verdict == "carried"


@pytest.mark.parametrize(
    ("protocol", "varied", "destinations", "leading"),
    [
        ("icmp", False, (), [0]),
        ("udp", False, (), [0]),
        ("udp", True, (), [0, 1, 2, 3, 4]),
        ("tcp", False, (), [0, 1, 2, 3, 4]),
        ("icmp", False, (THERE, ELSEWHERE), [0, 1]),
    ],
)
def test_the_first_of_each_connection_goes_before_the_others(
    protocol: Protocol, varied: bool, destinations: tuple[Address, ...], leading: list[int]
) -> None:
    ports = {"port": 53} if protocol != "icmp" else {}
    probes = build(
        lab=1, flow=2, count=5, protocol=protocol, source=HERE, destination=THERE, destinations=destinations,
        vary_ports=varied or None, **ports,
    )  # fmt: skip
    order = Order(asked("pod1 -> pod2"), HERE, THERE, "pod1", "pod2")
    turns = measure._turns([measure._Sending(order, probes, Observed(2))])
    numbers = [[probe.identity.number for sending in turn for probe in sending.probes] for turn in turns]
    assert numbers[0] == leading
    assert sorted(itertools.chain(*numbers)) == [0, 1, 2, 3, 4]
