"""House rule 1: a missing measurement is never a pass. Labs whose taps are blinded, each in another way, must fail."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence

import pytest
from niclab import Lab
from niclab.cli import FAIL, main
from niclab.flow.verdict import FlowResult, Unmeasured
from niclab.host import syscalls
from niclab.host.process import run
from niclab.kernel.plan import FABRIC
from niclab.wire import measure, tap
from niclab.wire.sender import Responder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

REJECT_ALL = [(0x06, 0, 0, 0)]  # classic BPF: return 0
NICS = ("node1.eth0", "node1.eth1", "node2.eth0", "node2.eth1", "ext0.eth0", "ext1.eth0", "gw.p0", "gw.p1")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary is there at once or never; waiting two seconds for it is for machines with more to do than this test."""
    monkeypatch.setattr(measure, "CANARY_DEADLINE", 0.3)


@pytest.fixture
def standing() -> Iterator[Lab]:
    with Lab.deploy("two-nic") as lab:
        assert lab.send("pod1", "ext1").verdict == "carried"
        yield lab


def reject_all(lab: Lab) -> None:
    syscalls.attach_filter(lab.taps.fabric.socket, REJECT_ALL)


def close(lab: Lab) -> None:
    lab.taps.fabric.socket.close()


def bind_elsewhere(lab: Lab) -> None:
    """One cable is still watched: the others are not."""
    lab.taps.fabric.socket.bind(("node2.eth1", 3))


def shrink(lab: Lab) -> None:
    lab.taps.fabric.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


def put_port_down(lab: Lab) -> None:
    """The tap's own end of a cable: the node's end is still up, so that the node would use it."""
    run(["ip", "-n", lab.namespaces[FABRIC], "link", "set", "node1.eth1", "down"])


def remove_port(lab: Lab) -> None:
    run(["ip", "-n", lab.namespaces[FABRIC], "link", "delete", "node1.eth1"])


def reject_at_pod(lab: Lab) -> None:
    (found,) = [one for one in lab.taps if one is not lab.taps.fabric]
    syscalls.attach_filter(found.socket, REJECT_ALL)


BLINDINGS: dict[Callable[[Lab], None], str] = {
    reject_all: "node1.eth0 out (before), node1.eth0 in (before)",
    close: "node1.eth0 out (before), node1.eth0 in (before)",
    bind_elsewhere: "node1.eth0 out (before), node1.eth0 in (before)",
    shrink: "(before)",
    put_port_down: "node1.eth1 (its outer end is down) · drops 0",
    remove_port: "node1.eth1 (its outer end is down) · drops 0",
    reject_at_pod: "missing: pod1 out (before) · drops 0",
}


def answers_nothing(flow: FlowResult) -> None:
    assert flow.verdict == "unmeasured"
    assert not flow.measurement.holds
    for ask in (
        lambda: flow.left("node1"),
        lambda: flow.came_back_to("node1"),
        lambda: flow.source_seen_by("ext1"),
        lambda: flow.must_leave("node1", by="eth1"),
        lambda: flow.must_not_leave("node1", by="eth0"),
        flow.must_receive,
        flow.must_not_receive,
    ):
        with pytest.raises(Unmeasured, match="was not measured"):
            ask()


@pytest.mark.parametrize(("blind", "reported"), BLINDINGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_blinded_lab_answers_nothing(standing: Lab, blind: Callable[[Lab], None], reported: str) -> None:
    blind(standing)
    flow = standing.send("pod1", "ext1")
    answers_nothing(flow)
    assert reported in str(flow.measurement)
    if blind is shrink:
        assert flow.measurement.drops > 0


@pytest.mark.parametrize(
    ("blind", "reported"),
    [(reject_all, "node1.eth0 out (after)"), (put_port_down, "node1.eth1 (its carrier changed)")],
    ids=["reject_all", "put_port_down"],
)
def test_a_lab_blinded_midway_answers_nothing(
    standing: Lab, monkeypatch: pytest.MonkeyPatch, blind: Callable[[Lab], None], reported: str
) -> None:
    """The canaries before were seen; those after tell."""
    serve = measure._serve
    done: list[Lab] = []

    def blind_and_serve(responders: Sequence[Responder]) -> None:
        if not done:
            blind(standing)
            done.append(standing)
        serve(responders)

    monkeypatch.setattr(measure, "_serve", blind_and_serve)
    flow = standing.send("pod1", "ext1")
    answers_nothing(flow)
    assert reported in str(flow.measurement)
    assert "before" not in str(flow.measurement)


def test_a_cable_unplugged_at_the_node_is_not_a_blind_tap(standing: Lab) -> None:
    """Nothing can pass there and somebody looks: that is a measurement, and says so."""
    run(["ip", "-n", standing.namespaces["node1"], "link", "set", "eth1", "down"])
    flow = standing.send("pod1", "ext1")
    assert flow.measurement.holds
    assert flow.measurement.without_carrier == ("node1.eth1",)
    assert flow.left("node1") == {"eth0"}


def test_every_tap_sees_its_own_canary(standing: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name: with each canary swallowed in turn, it is that one which is missed, and no other."""
    standing.send("pod1", "pod2")
    inject = tap.Taps.inject
    sent: list[str] = []
    swallowed = ""

    def note(self: tap.Taps, role: str, interface: str, frame: bytes) -> None:
        nic = role if role in self.pods else f"{role}.{interface}"
        sent.append(f"{interface} in" if role == FABRIC else f"{nic} out")
        if sent[-1] != swallowed:
            inject(self, role, interface, frame)

    monkeypatch.setattr(tap.Taps, "inject", note)
    monkeypatch.setattr(measure, "CANARY_DEADLINE", 0.05)
    expected = [f"{nic} {direction}" for nic in NICS for direction in ("out", "in")] + ["pod1 out", "pod2 out"]
    assert standing.send("pod1", "ext0").verdict == "carried"
    assert sorted(sent) == sorted(expected * 2)
    for swallowed in expected:
        assert standing.send("pod1", "ext0").measurement.missing == (f"{swallowed} (before)",)


@pytest.mark.parametrize("expect", [False, True])
@pytest.mark.parametrize("output", ["text", "json"])
def test_trace_says_that_nothing_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str, expect: bool
) -> None:
    monkeypatch.setattr(tap, "FILTER", REJECT_ALL)
    words = ["--expect", "pod1 -> ext1=eth1"] if expect else []
    assert main(["trace", "two-nic", "--flow", "pod1 -> ext1", "-o", output, *words]) == FAIL
    out, err = capsys.readouterr()
    assert "not measured: canaries missing: node1.eth0 out (before)" in err
    assert "unmeasured" in out
    assert "carried" not in out
    assert "canaries ok" not in out


def test_a_scenario_in_a_blinded_lab_fails(pytester: pytest.Pytester) -> None:
    """One that asserts only that something was not seen: the one that a blind tap would make pass."""
    pytester.makepyfile("""
        import pytest
        from niclab.host import syscalls
        from niclab.wire import measure
        measure.CANARY_DEADLINE = 0.3
        pytestmark = pytest.mark.cilium("1.20")

        @pytest.fixture(params=[True, False], ids=["blind", "seeing"])
        def flow(lab, request):
            if request.param:
                syscalls.attach_filter(lab.taps.fabric.socket, [(0x06, 0, 0, 0)])
            return lab.send("pod1", "ext1")

        def test_negative(flow):
            flow.must_not_leave("node1", by="eth0")

        def test_empty(flow):
            assert flow.left("node2") == set()
    """)
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(passed=2, failed=2)
    done.stdout.fnmatch_lines(
        ["*Unmeasured: pod1→ext1 was not measured: canaries missing: node1.eth0 out (before)*", "*unmeasured*"]
    )
