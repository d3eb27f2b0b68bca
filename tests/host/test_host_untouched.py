"""The host is the same before and after a lab, however the lab ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from niclab.cilium import operations
from niclab.errors import LabError
from niclab.host import ledgers
from niclab.lab import Lab
from niclab.net import operation
from niclab.net.operation import AddRoute, Operation
from niclab.net.route import parse_route
from niclab.settings import LAB_BASELINE, Settings

from tests.support import arena

pytestmark = arena.able

FLOWS = ["pod1 -> pod2", "pod1 -> ext0", "pod1 -> ext1:udp:53", "pod2 -> node1.eth1", "pod1 -> pod2:tcp:80"]


def untouched(work: Callable[[], object]) -> None:
    def compared() -> None:
        before, sysctls = arena.state(), arena.sysctls()
        assert len(sysctls) > 500
        work()
        assert arena.differences(before, arena.state()) == ""
        after = arena.sysctls()
        assert {key: (sysctls.get(key), after.get(key)) for key in sysctls | after} == {
            key: (value, value) for key, value in sysctls.items()
        }

    arena.in_arena(compared)


ROUTING = {
    "tunnel": Settings.of(routing="tunnel"),
    "native": Settings.of(routing="native", auto_direct_node_routes=True, ipv4_native_routing_cidr="10.244.0.0/16"),
}


@pytest.mark.parametrize("topology", ["two-nic", "dual-stack"])
@pytest.mark.parametrize("routing", ROUTING)
def test_a_lab_comes_and_goes(topology: str, routing: str) -> None:
    def work() -> None:
        before = arena.state()
        with Lab.deploy(topology, LAB_BASELINE.merged(ROUTING[routing])) as lab:
            results = lab.send_all(FLOWS)
            unmeasured = [one.refusal or str(one.measurement) for one in results if one.verdict == "unmeasured"]
            assert unmeasured == []
            during = arena.state()
            for key in ("mounts", "files"):
                assert lab.id in during[key]
                del before[key], during[key]
            assert arena.differences(before, during) == ""

    untouched(work)


def test_the_body_raises() -> None:
    def work() -> None:
        with pytest.raises(ZeroDivisionError), Lab.deploy("two-nic") as lab:
            lab.send("pod1", "pod2")
            raise ZeroDivisionError

    untouched(work)


def test_deploying_fails_at_the_last_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = operations.operations

    def broken(*arguments: Any, **keywords: Any) -> tuple[Operation, ...]:
        bad = AddRoute("node2", parse_route("10.9.0.0/16 via 192.0.2.77 dev eth0"))
        return (*plain(*arguments, **keywords), bad)

    monkeypatch.setattr(operations, "operations", broken)

    def work() -> None:
        with pytest.raises(
            LabError, match=r"refused: ip -n lab\w+-node2 route add 10.9.0.0/16 via 192.0.2.77"
        ) as caught:
            Lab.deploy("two-nic")
        assert caught.value.why == "Nexthop has invalid gateway"

    untouched(work)


def test_deploying_fails_in_nftables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "ruleset", lambda _: "table ip broken { chain nonsense")

    def work() -> None:
        with pytest.raises(LabError, match=r"status 1: ip netns exec lab\w+-node1 nft -f -") as caught:
            Lab.deploy("two-nic")
        assert "nonsense" in caught.value.why

    untouched(work)


def test_a_kept_lab_comes_and_goes() -> None:
    def work() -> None:
        with Lab.deploy("two-nic", lab_id="kept") as lab:
            lab.keep()
        with Lab.attach("kept") as lab:
            assert lab.send("pod1", "pod2").verdict == "carried"
        ledgers.remove("kept")

    untouched(work)
