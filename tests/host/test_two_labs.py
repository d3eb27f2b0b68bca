"""Two labs at once: each sees its own probes only, and finds what it finds alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple

from niclab.lab import Lab
from niclab.settings import LAB_BASELINE, Settings
from niclab.wire.decode import Decoder

from tests.support import arena

pytestmark = arena.able

FLOWS = ["pod1 -> pod2", "pod1 -> ext0", "pod1 -> ext1", "pod1 -> node2.eth1", "pod1 -> ext1:udp:53"]
SETTINGS = [
    LAB_BASELINE.merged(Settings.of(routing="tunnel", devices="eth0,eth1")),
    LAB_BASELINE.merged(
        Settings.of(
            routing="native",
            devices="eth1",
            auto_direct_node_routes=True,
            ipv4_native_routing_cidr="10.244.0.0/16",
        )
    ),
]
Found = list[tuple[str, Mapping[str, object]]]


def measure(lab: Lab) -> Found:
    """Verdict and counts of every flow; what a NIC transmitted includes sources and outer addresses."""
    results = lab.send_all(FLOWS)
    assert [result.refusal or result.explanation for result in results if result.verdict != "carried"] == []
    return [
        (result.verdict, {tap: astuple(count) for tap, count in result.transmitted_by.items()}) for result in results
    ]


def alone(settings: Settings) -> Found:
    with Lab.deploy("two-nic", settings) as lab:
        return measure(lab)


def test_in_one_process() -> None:
    def work() -> None:
        expected = [alone(settings) for settings in SETTINGS]
        assert expected[0] != expected[1]
        with Lab.deploy("two-nic", SETTINGS[0]) as first, Lab.deploy("two-nic", SETTINGS[1]) as second:
            assert not set(first.namespaces.values()) & set(second.namespaces.values())
            for _ in range(3):
                assert [measure(first), measure(second)] == expected
            for lab, other in ((first, second), (second, first)):
                theirs = Decoder(other._measurer._number, vxlan_ports=(8472,), tcp_payloads=())
                assert lab.captures
                assert not [capture for capture in lab.captures if theirs.decode(capture.data)]
            # Nothing of the other's is waiting at the taps either.
            first.taps.drain()
            measure(second)
            assert first.taps.drain() == []
        # The second is taken down first; the order must not matter.
        with Lab.deploy("two-nic", SETTINGS[0]) as first:
            second = Lab.deploy("two-nic", SETTINGS[1])
            measure(second)
            second.close()
            assert measure(first) == expected[0]

    arena.in_arena(work)


def test_in_two_processes() -> None:
    def work() -> None:
        before = arena.state()
        expected = [alone(settings) for settings in SETTINGS]
        found: dict[int, tuple[bool, object]] = {}

        def live(number: int) -> Callable[[], list[Found]]:
            return lambda: [alone(SETTINGS[number]) for _ in range(4)]

        threads = [
            threading.Thread(target=lambda number=number: found.update({number: arena.forked(live(number))}))
            for number in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(2):
            assert found[number] == (True, [expected[number]] * 4), found[number][1]
        assert arena.differences(before, arena.state()) == ""

    arena.in_arena(work)
