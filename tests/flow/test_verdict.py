"""Verdicts and the words that explain them, from sightings made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from niclab.flow.picture import WIDTH
from niclab.flow.verdict import FlowResult, NicMismatch, NicSet, Unmeasured, compared
from niclab.wire.decode import Decoder
from niclab.wire.identity import Identity
from niclab.wire.probe import build
from niclab.wire.sighting import Measurement, sort
from niclab.wire.tap import Capture

from tests.support.flows import CONTEXT, HOLDS, result, seen, to_ext1, tunnelled

BLIND = {
    "canary missing": Measurement(missing=("node1.eth1 out (before)",), taps=8),
    "frames dropped": Measurement(drops=3, taps=8),
    "no taps": Measurement(),
}
blind = pytest.mark.parametrize("measurement", BLIND.values(), ids=BLIND)

QUESTIONS: dict[str, Callable[[FlowResult], object]] = {
    "left": lambda flow: flow.left("node1"),
    "entered": lambda flow: flow.entered("node1"),
    "answered_by": lambda flow: flow.answered_by("node1"),
    "came_back_to": lambda flow: flow.came_back_to("node1"),
    "sources_seen_by": lambda flow: flow.sources_seen_by("ext1"),
    "source_seen_by": lambda flow: flow.source_seen_by("ext1"),
    "outer_on": lambda flow: flow.outer_on("node1.eth0"),
    "must_leave": lambda flow: flow.must_leave("node1", by="eth1"),
    "must_not_leave": lambda flow: flow.must_not_leave("node1", by="eth0"),
    "must_receive": lambda flow: flow.must_receive(),
    "must_not_receive": lambda flow: flow.must_not_receive(),
}


def test_carried() -> None:
    flow = result("pod1 -> ext1", *[to_ext1()] * 5)
    assert (flow.verdict, flow.received, flow.outcome) == ("carried", 5, "carried, 5 of 5 answered")
    assert flow.left("node1") == {"eth1"} == flow.came_back_to("node1")
    assert flow.entered("ext1") == flow.answered_by("ext1") == {"eth0"}
    assert flow.left("node2") == set()
    assert flow.source_seen_by("ext1") == "10.244.1.7"
    flow.must_leave("node1", by="eth1")
    flow.must_not_leave("node1", by="eth0")
    flow.must_receive()


def test_lost_when_one_answer_is_missing() -> None:
    flow = result("pod1 -> ext1", *[to_ext1()] * 4, to_ext1()[:-1])
    assert (flow.verdict, flow.received, flow.outcome) == ("lost", 4, "lost, 4 of 5 answered")
    with pytest.raises(AssertionError, match=r"^pod1→ext1: 4 of 5 answered\n"):
        flow.must_receive()
    with pytest.raises(AssertionError, match=r"^pod1→ext1: 4 answered, none should be\n"):
        flow.must_not_receive()


def test_lost_without_any_sighting() -> None:
    flow = result("pod1 -> ext1", sent=5)
    assert flow.verdict == "lost"
    assert flow.left("node1") == set()
    assert flow.source_seen_by("ext1") is None
    assert dict(flow.transmitted_by) == {}
    flow.must_not_receive()
    assert "pod1 ─ lxc ─ node1 ✗ (not seen at ext1)      no request was seen on any cable" in flow.explanation


def test_what_a_pod_sends_to_its_own_node_arrived_if_it_is_answered() -> None:
    """No tap sees the request: only what is not answered is not seen either."""
    answered = [seen("pod1", "in", "10.0.0.1", "reply")]
    flow = result("pod1 -> node1.eth0", answered)
    assert flow.verdict == "carried"
    assert flow.pictures == ["pod1 ─ lxc ─ node1      no tap inside the node", "node1 ─ lxc ─ pod1"]
    assert "✗ (not seen at node1.eth0)" in result("pod1 -> node1.eth0", sent=1).pictures[0]


def test_leaked_even_when_all_is_answered() -> None:
    flow = result("pod1 -> ext1", to_ext1(), leaks=("node1.eth1",))
    assert (flow.verdict, flow.outcome) == ("leaked", "leaked by node1.eth1, 1 of 1 answered")


@blind
def test_unmeasured_answers_nothing(measurement: Measurement) -> None:
    """Whatever was seen: it may not be all there was."""
    flow = result("pod1 -> ext1", *[to_ext1()] * 5, measurement=measurement, leaks=("node1.eth1",))
    assert flow.verdict == "unmeasured"
    for ask in QUESTIONS.values():
        with pytest.raises(Unmeasured, match=r"^pod1→ext1 was not measured: canaries "):
            ask(flow)


def test_nothing_sent_is_nothing_measured() -> None:
    flow = result("pod1 -> ext1", sent=0, refusal="pod1 is not plugged: the agent on node1 exits: no device")
    assert flow.verdict == "unmeasured"
    with pytest.raises(Unmeasured, match=r"was not measured: pod1 is not plugged: the agent on node1 exits: no device"):
        flow.must_not_receive()


@pytest.mark.parametrize("host", ["node3", "pod1", "eth0", ""])
def test_a_host_that_is_not_there_is_no_empty_answer(host: str) -> None:
    flow = result("pod1 -> ext1", to_ext1())
    for ask in (flow.left, flow.entered, flow.answered_by, flow.came_back_to):
        with pytest.raises(ValueError, match="is no host with NICs"):
            ask(host)
    with pytest.raises(ValueError, match=r"there is no NIC node1\.eth7"):
        flow.must_not_leave("node1", by="eth7")


def test_the_message_of_a_wrong_nic() -> None:
    """To the letter: the first line is the finding, then the way, every NIC's count, and what was said."""
    flow = result("pod1 -> ext1", *[to_ext1()] * 5)
    with pytest.raises(NicMismatch) as raised:
        flow.must_leave("node1", by="eth0")
    assert str(raised.value).splitlines() == [
        "pod1→ext1 must leave node1 by eth0, left by eth1 (5 of 5)",
        "  pod1 ─ lxc ─ node1 ═ eth1 ═ f1 ─ ext1     source seen: 10.244.1.7 (the pod's own: not masqueraded)",
        "  ext1 ═ eth0 ═ f1 ═ eth1 ─ node1 ─ lxc ─ pod1",
        "  node1.eth0 0 · node1.eth1 5 · node2.eth0 0 · node2.eth1 0      canaries ok · drops 0",
        "  reported: node1: devices [eth0], direct routing device eth0",
        "  reported: node2: devices [eth0], direct routing device eth0",
    ]


def test_the_messages_of_the_other_matchers() -> None:
    flow = result("pod1 -> ext1", *[to_ext1()] * 5)
    with pytest.raises(NicMismatch, match=r"^pod1→ext1 must leave node1 by eth0 and eth1, left by eth1 \(5 of 5\)\n"):
        flow.must_leave("node1", by=["eth1", "eth0"])
    with pytest.raises(NicMismatch, match=r"^pod1→ext1 must not leave node1 by eth1, left by eth1 \(5 of 5\)\n"):
        flow.must_not_leave("node1", by="eth1")
    with pytest.raises(NicMismatch, match=r"^pod1→ext1 must leave node2 by eth0, left by no NIC \(0 of 5\)\n"):
        flow.must_leave("node2", by="eth0")


def test_a_reply_is_not_let_out_either() -> None:
    """`must_not_leave` is about everything of the flow."""
    flow = result("ext1 -> pod1", *[[seen("node1.eth0", "out", "10.244.1.7", "reply")]] * 2)
    with pytest.raises(NicMismatch, match=r"must not leave node1 by eth0, left by eth0 \(2 of 2\)"):
        flow.must_not_leave("node1", by="eth0")


def test_a_frame_flooded_past_a_nic_did_not_arrive_there() -> None:
    way = [*to_ext1(), seen("node2.eth1", "past", "10.244.1.7"), seen("gw.p1", "past", "10.0.1.100", "reply")]
    flow = result("pod1 -> ext1", way)
    assert flow.entered("node2") == set()
    assert flow.came_back_to("gw") == set()
    assert flow.sources_seen_by("node2") == set()
    assert "node2 " not in flow.explanation.splitlines()[0]


def test_an_answer_flooded_past_the_sender_is_no_answer() -> None:
    flow = result("node1.eth0 -> ext0", [seen("node1.eth0", "past", "10.0.0.100", "reply")])
    assert flow.received == 0


def test_whether_a_frame_arrives_is_told_by_its_address() -> None:
    """From frames: the destination MAC decides, broadcast counts, and a pod's own tap needs no MAC."""
    from ipaddress import ip_address

    source, target = ip_address("10.244.1.7"), ip_address("10.0.1.100")
    (probe,) = build(lab=7, flow=0, count=1, protocol="icmp", source=source, destination=target)
    mac, other = "02:00:00:00:01:00", "02:00:00:00:02:00"

    def frame(destination: str) -> bytes:
        return bytes.fromhex(destination.replace(":", "")) + bytes(6) + b"\x08\x00" + probe.packet

    captures = [
        Capture("ext1.eth0", 1, False, frame(mac)),
        Capture("ext1.eth0", 2, False, frame(other)),
        Capture("ext1.eth0", 3, False, frame("ff:ff:ff:ff:ff:ff")),
        Capture("ext1.eth0", 4, True, frame(mac)),
        Capture("pod1", 5, False, frame(other)),
    ]
    found = sort(captures, Decoder(7, vxlan_ports=(8472,)), {"ext1.eth0": [mac]}, ["ext1.eth0", "pod1"]).flows
    assert [one.arrives for one in found[Identity(7, 0, 0).flow]] == [True, False, True, False, True]


def test_ecmp_over_two_nics() -> None:
    flow = result("pod1 -> pod2:udp:53", *[tunnelled("eth0")] * 3, *[tunnelled("eth1")] * 2)
    assert flow.verdict == "carried"
    assert flow.left("node1") == {"eth0", "eth1"}
    assert {tap: one.requests for tap, one in flow.transmitted_by.items() if one.requests} == {
        "node1.eth0": 3,
        "node1.eth1": 2,
    }
    flow.must_leave("node1", by={"eth0", "eth1"})
    with pytest.raises(
        NicMismatch, match=r"^pod1→pod2:udp:53 must leave node1 by eth1, left by eth0 and eth1 \(5 of 5"
    ):
        flow.must_leave("node1", by="eth1")


def test_a_tunnel_is_shown_and_its_outer_addresses_told() -> None:
    flow = result("pod1 -> pod2", tunnelled())
    assert flow.outer_on("node1.eth0") == {("10.0.0.1", "10.0.0.2")}
    assert flow.outer_on("node2.eth0") == {("10.0.0.2", "10.0.0.1")}
    assert flow.transmitted_by["node2.eth0"].inner_src == ("10.244.2.7",)
    first, source, second, *_ = flow.explanation.splitlines()
    assert first == "  pod1 ─ lxc ─ node1 ═ eth0[vxlan] ═ f0 ═ eth0 ─ node2 ─ lxc ─ pod2"
    assert source == "    source seen: 10.244.1.7 (the pod's own: not masqueraded)"
    assert second == "  pod2 ─ lxc ─ node2 ═ eth0[vxlan] ═ f0 ═ eth0 ─ node1 ─ lxc ─ pod1"


def test_pods_of_one_node_never_meet_a_cable() -> None:
    way = [
        seen("pod1", "out", "10.244.1.7"),
        seen("pod1b", "in", "10.244.1.7"),
        seen("pod1b", "out", "10.244.1.8", "reply"),
        seen("pod1", "in", "10.244.1.8", "reply"),
    ]
    flow = result("pod1 -> pod1b", *[way] * 5)
    assert flow.verdict == "carried"
    assert flow.left("node1") == set()
    assert flow.source_seen_by("pod1b") == "10.244.1.7"
    assert flow.explanation.splitlines()[0].startswith(
        "  pod1 ─ lxc ─ node1 ─ lxc ─ pod1b      source seen: 10.244.1.7"
    )


def test_ipv6() -> None:
    flow = result("pod1 -> pod2:tcp6:80", tunnelled(pod="fd00::1:7", peer="fd00::2:7"))
    assert flow.name == "pod1→pod2:tcp:80 (IPv6)"
    assert flow.source_seen_by("pod2") == "fd00::1:7"
    assert "source seen: fd00::1:7 (the pod's own: not masqueraded)" in flow.explanation


def test_several_sources_have_no_one_answer() -> None:
    flow = result("pod1 -> ext1", to_ext1(), to_ext1(source="10.0.1.1"))
    assert flow.sources_seen_by("ext1") == {"10.244.1.7", "10.0.1.1"}
    with pytest.raises(ValueError, match=r"ext1 saw several sources: 10.0.1.1, 10.244.1.7"):
        flow.source_seen_by("ext1")


def test_where_it_got_lost_and_what_was_answered_instead() -> None:
    way = [
        seen("pod1", "out", "10.244.1.7"),
        seen("node1.eth0", "out", "10.0.0.1"),
        seen("gw.p0", "in", "10.0.0.1"),
        seen("gw.p0", "out", "10.0.0.254", "error", note="host unreachable"),
        seen("node1.eth0", "in", "10.0.0.254", "error", note="host unreachable"),
    ]
    flow = result("pod1 -> ext1", way, refusal="Operation not permitted")
    assert flow.verdict == "lost"
    assert flow.left("node1") == {"eth0"}
    assert "pod1 ─ lxc ─ node1 ═ eth0 ═ f0 ─ gw ✗ (not seen at ext1)" in flow.explanation
    assert "refused: Operation not permitted" in flow.explanation
    assert "noticed: host unreachable from 10.0.0.254" in flow.explanation
    assert flow.transmitted_by["node1.eth0"].requests == 1


def test_the_answers_compare_and_show_as_sets() -> None:
    left = result("pod1 -> ext1", to_ext1(), to_ext1("eth0")).left("node1")
    assert left == {"eth1", "eth0"} == left
    assert left != {"eth1"}
    assert left > {"eth1"}
    assert "eth0" in left
    assert repr(left) == "{'eth0', 'eth1'}"
    assert hash(left) == hash(frozenset({"eth0", "eth1"}))
    assert repr(result("pod1 -> ext1", to_ext1())) == "<pod1→ext1: carried, 1 of 1 answered>"


def test_what_pytest_shows_of_a_failed_comparison() -> None:
    flow = result("pod1 -> ext1", *[to_ext1()] * 5)

    def first(left: object, right: object, op: str = "==") -> str:
        lines = compared(op, left, right)
        assert lines is not None
        assert lines[1:] == flow.explanation.splitlines()
        return lines[0]

    assert first(flow.left("node1"), {"eth0"}) == "pod1→ext1 left node1 by eth1, not by eth0 (5 of 5)"
    assert first({"eth0"}, flow.left("node1")) == "pod1→ext1 left node1 by eth1, not by eth0 (5 of 5)"
    assert first(flow.entered("ext1"), set()) == "pod1→ext1 entered ext1 by eth0, not by no NIC (5 of 5)"
    assert first(flow.answered_by("node2"), {"eth0", "eth1"}) == (
        "pod1→ext1 was answered by node2 by no NIC, not by eth0 and eth1 (0 of 5)"
    )
    assert first(flow.left("node1"), {"eth1"}, "!=") == "pod1→ext1: {'eth1'} != {'eth1'}"
    assert first((flow.left("node1"), "x"), ({"eth1"}, "y")) == "pod1→ext1: ({'eth1'}, 'x') == ({'eth1'}, 'y')"
    assert compared("==", {"eth0"}, frozenset()) is None
    assert isinstance(flow.left("node1"), NicSet)


def test_many_nodes_are_folded() -> None:
    nics = {f"node{n}.eth{i}": f"f{i}" for n in range(1, 101) for i in (0, 1)}
    wide = dataclasses.replace(CONTEXT, nics={**CONTEXT.nics, **nics}, nodes=tuple(f"node{n}" for n in range(1, 101)))
    flow = dataclasses.replace(result("pod1 -> ext1", to_ext1()), context=wide)
    lines = flow.explanation.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.count("node100.eth1 0") for line in lines) == 1


def test_a_measurement_says_what_it_rests_on() -> None:
    assert str(HOLDS) == "canaries ok · drops 0"
    assert str(BLIND["no taps"]) == "canaries none sent · drops 0"
    assert str(Measurement(("a", "b"), 2, 8, ("node1.eth1",))) == (
        "canaries missing: a, b · drops 2 · no carrier: node1.eth1"
    )
    assert str(Measurement(tuple("abcde"), taps=8)) == "canaries missing: a, b, c, … (5 in all) · drops 0"
    assert Measurement(tuple("abcde"), taps=8).canaries == "missing: a, b, c, d, e"
    assert [one.holds for one in (HOLDS, *BLIND.values())] == [True, False, False, False]
