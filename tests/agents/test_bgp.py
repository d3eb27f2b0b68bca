"""FRR in a lab: it learns what is expected, traffic follows, and nothing of it is left, however the lab ends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, Lab, LabError, Settings, World, load
from niclab.agents import kube, reported
from niclab.agents.frr import programs
from niclab.errors import NoAnswer
from niclab.flow.trace import transmitted
from niclab.host import ledgers
from niclab.net.route import Family, ip_address, ip_network
from niclab.topology.model import Topology

from tests.support import arena
from tests.support.processes import runs

needs_frr = [arena.able, pytest.mark.needs("frr")]
BOTH = LAB_BASELINE.merged(Settings.of(devices="eth0,eth1"))
OF_THE_HOST = ("/etc/frr", "/run/frr", "/var/lib/frr", "/var/tmp", "/etc/group")
V4: tuple[Family, ...] = (4,)
POD1 = "10.244.1.0/24"
PEER = ip_address("10.0.0.1")


def tails(path: str) -> list[tuple[str, int]]:
    """Everything below a path of the host's, with the time it was changed."""
    root = Path(path)
    return sorted((str(one), one.lstat().st_mtime_ns) for one in (root, *root.rglob("*"))) if root.exists() else []


def daemons(lab_id: str) -> dict[str, int]:
    """The processes of a lab's ledger, by name."""
    lines = (ledgers.STATE / lab_id / "ledger").read_text().splitlines()
    entries = [json.loads(line) for line in lines if line]
    return {one["name"]: one["pid"] for one in entries if one["act"] == "started process"}


class TestWithFrr:
    pytestmark = needs_frr

    def test_nothing_of_the_hosts_is_touched(self) -> None:
        def work() -> None:
            before, files = arena.state(), {path: tails(path) for path in OF_THE_HOST}
            with Lab.deploy("two-tors", BOTH) as lab:
                started = daemons(lab.id)
                routers = {f"{name} on {router}" for name in ("bgpd", "zebra") for router in ("spine", "tor0", "tor1")}
                assert set(started) == {*routers, "bgpd on node1", "bgpd on node2"}
                assert {path: tails(path) for path in OF_THE_HOST} == files
                for pid in started.values():
                    assert "nsfs" not in Path(f"/proc/{pid}/mountinfo").read_text()
            assert arena.differences(before, arena.state()) == ""
            assert {path: tails(path) for path in OF_THE_HOST} == files
            assert not [name for name, pid in started.items() if runs(pid)]

        arena.in_arena(work)

    def test_what_happens_is_what_is_predicted(self) -> None:
        """Learned, expected and walked agree; and without the nodes' word nobody finds a pod."""

        def work() -> None:
            with Lab.deploy("two-tors", BOTH) as lab:
                for name in ("tor0", "tor1", "spine", "node1", "node2"):
                    assert lab.bgp(name).learned == lab.bgp(name).expected
                world = World(lab.decisions)
                for flow in lab.send_all(["tor0.up -> pod1", "tor1.down -> pod2", "pod1 -> client"]):
                    (predicted,) = world.predict(flow.flow)
                    assert predicted.carried == (flow.verdict == "carried")
                    assert set(transmitted([predicted], lab.context.node_taps)) == set(flow.transmitted_by)
            silent = BOTH.merged(Settings.of(enable_bgp_control_plane=False))
            with Lab.deploy("two-tors", silent) as lab:
                assert lab.bgp("tor0").next_hops(POD1) == set()
                lab.send("client", "pod1").must_not_receive()
                with pytest.raises(LabError, match="'node1' does not speak BGP"):
                    lab.bgp("node1")

        arena.in_arena(work)

    def test_killed_while_it_stands(self) -> None:
        """`kill -9`: the daemons outlive the lab's process, and the next sweep ends them."""

        def work() -> None:
            before = arena.remains()

            def life() -> None:
                Lab.deploy("two-tors", lab_id="doomed")
                os.kill(os.getpid(), signal.SIGKILL)

            assert arena.forked(life) == (False, "ended with status -9")
            left = daemons("doomed")
            assert all(map(runs, left.values()))
            swept = ledgers.sweep()
            assert (swept.labs, swept.foreign, swept.stuck) == (("doomed",), (), ())
            assert not [name for name, pid in left.items() if runs(pid)]
            assert arena.differences(before, arena.remains()) == ""

        arena.in_arena(work)

    def test_two_labs_at_once(self) -> None:
        """The same addresses and ports twice: neither hears of the other, and each ends alone."""

        def work() -> None:
            with Lab.deploy("two-tors", BOTH) as second:
                with Lab.deploy("two-tors", BOTH.merged(Settings.of(enable_bgp_control_plane=False))) as first:
                    assert first.bgp("tor0").next_hops(POD1) == set()
                    assert second.bgp("tor0").next_hops(POD1) == {"10.0.0.1"}
                assert second.bgp("spine").learned == second.bgp("spine").expected
                second.send("client", "pod1").must_receive()

        arena.in_arena(work)

    def test_outages_are_mended(self) -> None:
        def work() -> None:
            with Lab.deploy("two-tors", BOTH) as lab:
                spine, routes = lab.bgp("spine"), lab.run("tor1", "ip", "route")
                with lab.bgp("tor1").stopped():
                    assert lab.bgp("tor1").learned == {}
                    assert set(lab.bgp("tor1").sessions.values()) == {"down"}
                    spine.must_learn(POD1, {"10.1.0.1"})
                    with pytest.raises(
                        AssertionError, match=r"must learn .* by 10.9.9.9, has it by 10.1.0.1 after 0 s"
                    ):
                        spine.must_learn(POD1, {"10.9.9.9"}, within=0)
                assert spine.learned == spine.expected
                with lab.link_down("tor1.up"):
                    assert spine.next_hops(POD1) == {"10.1.0.1"}
                    assert "default" not in lab.run("tor1", "ip", "route")
                    # What is expected follows: tor1 has nobody left who knows the client's network.
                    assert "10.9.0.0/24" not in lab.bgp("tor1").expected
                    assert lab.bgp("tor1").learned == lab.bgp("tor1").expected
                assert spine.learned == spine.expected
                assert lab.run("tor1", "ip", "route", "show", "proto", "boot").strip() == "default via 10.1.1.2 dev up"
                assert routes.count("proto bgp") == lab.run("tor1", "ip", "route").count("proto bgp")

        arena.in_arena(work)

    def test_a_kept_lab_is_found_again(self) -> None:
        def work() -> None:
            with Lab.deploy("two-tors", BOTH, lab_id="kept") as lab:
                lab.keep()
            with Lab.attach("kept") as lab:
                assert lab.bgp("spine").learned == lab.bgp("spine").expected
                with pytest.raises(LabError, match="no bgpd of tor0 that is ours"), lab.bgp("tor0").stopped():
                    pass
            ledgers.remove("kept")

        arena.in_arena(work)

    def test_both_families(self) -> None:
        """IPv6 has sessions of its own; of its two next hops the global one is told."""

        def work() -> None:
            with Lab.deploy(_dual(), LAB_BASELINE.merged(Settings.of(enable_ipv6=True))) as lab:
                assert lab.bgp("tor").learned == lab.bgp("tor").expected
                assert lab.bgp("tor").next_hops("fd00:10:244:1::/64") == {"fd00::1"}
                lab.send("tor.down", "pod1:icmp6").must_receive()

        arena.in_arena(work)


def _dual() -> Topology:
    return Topology.model_validate(
        {
            "name": "dual",
            "fabrics": {"f0": {}},
            "routers": {"tor": {"nics": {"down": {"fabric": "f0", "addresses": ["10.0.0.254/24", "fd00::fe/64"]}}}},
            "nodes": {
                "node1": {
                    "nics": {"eth0": {"fabric": "f0", "addresses": ["10.0.0.1/24", "fd00::1/64"]}},
                    "routes": ["default via 10.0.0.254", "default via fd00::fe"],
                    "pod_cidrs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
                    "pods": ["pod1"],
                }
            },
            "bgp": {"nodes": {"asn": 65000}, "routers": {"tor": {"asn": 65010}}},
        }
    )


def test_frr_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "HOME", tmp_path)
    with pytest.raises(LabError, match="FRR is not installed") as caught:
        programs.find()
    assert "apt-get install frr" in caught.value.fix


@pytest.mark.parametrize(
    "ask", [programs.rib, programs.installed, programs.states, lambda path: programs.heard(path, [PEER])]
)
@pytest.mark.parametrize("there", ["nobody", "closes", "no JSON"])
def test_a_daemon_that_is_silent_has_not_learned_nothing(
    tmp_path: Path, ask: Callable[[Path], object], there: str
) -> None:
    path = tmp_path / "bgpd.vty"
    with contextlib.ExitStack() as undo:
        if there != "nobody":
            server = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            server.bind(str(path))
            server.listen()

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"" if there == "closes" else b"% Unknown command\n\0\0\0\1")

            thread = threading.Thread(target=serve)
            thread.start()
            undo.callback(thread.join)
        with pytest.raises(NoAnswer, match=r"bgpd of .* does not answer"):
            ask(path)


def test_paths_in_use() -> None:
    """As FRR 8.4 prints them: what is originated here, one path, two together, one that lost, and IPv6's two hops."""
    best = {"valid": True, "bestpath": True}
    hop = {"ip": "10.0.0.1", "used": True}
    table = {
        "routes": {
            "10.9.0.0/24": [{**best, "nexthops": [{"ip": "0.0.0.0"}]}],
            "10.244.1.0/24": [{**best, "nexthops": [hop]}],
            "192.0.2.80/32": [
                {**best, "nexthops": [hop]},
                {"valid": True, "multipath": True, "nexthops": [{"ip": "10.0.0.2"}]},
                {"valid": True, "nexthops": [{"ip": "10.0.0.3"}]},
            ],
            "fd00:1::/64": [
                {**best, "nexthops": [{"ip": "fd00::1", "scope": "global"}, {"ip": "fe80::1", "scope": "link-local"}]}
            ],
        }
    }
    assert programs.used(table) == {
        ip_network("10.244.1.0/24"): {ip_address("10.0.0.1")},
        ip_network("192.0.2.80/32"): {ip_address("10.0.0.1"), ip_address("10.0.0.2")},
        ip_network("fd00:1::/64"): {ip_address("fd00::1")},
    }


def test_ciliums_objects() -> None:
    """Both nodes have the same peers, so one cluster configuration serves both; the node's address is nowhere."""
    found = list(kube.bgp_objects(load("two-tors"), V4))
    assert [one["kind"] for one in found] == ["CiliumBGPAdvertisement", "CiliumBGPPeerConfig", "CiliumBGPClusterConfig"]
    assert [one["advertisementType"] for one in found[0]["spec"]["advertisements"]] == ["PodCIDR", "Service"]
    assert found[1]["spec"]["timers"] == {
        "connectRetryTimeSeconds": 1,
        "keepAliveTimeSeconds": 1,
        "holdTimeSeconds": 3,
    }
    (instance,) = found[2]["spec"]["bgpInstances"]
    assert found[2]["spec"]["nodeSelector"]["matchExpressions"][0]["values"] == ["node1", "node2"]
    assert [(one["peerAddress"], one["peerASN"]) for one in instance["peers"]] == [
        ("10.0.0.254", 65010),
        ("10.0.1.254", 65011),
    ]
    assert "10.0.0.1" not in json.dumps([one["spec"] for one in found]).split('"')
    assert list(kube.bgp_objects(load("two-nic"), V4)) == []


def test_what_an_agent_has_heard() -> None:
    """Path attributes as BGP writes them: NEXT_HOP for IPv4, the next hop within MP_REACH_NLRI for IPv6."""
    six = ip_address("fd00::1").packed
    reach = b"\x80\x0e" + bytes([4 + 1 + 16]) + b"\0\2\1" + bytes([16]) + six + b"\0"
    extended = b"\x50\x03\x00\x04\x0a\x00\x01\xfe"
    routes = [
        _route("10.9.0.0/24", [b"\x40\x01\x01\x00", b"\x40\x03\x04\x0a\x00\x00\xfe"], [extended]),
        _route("10.244.1.0/24", [b"\x40\x03\x04\0\0\0\0"]),
        _route("fd00:9::/64", [reach]),
    ]
    assert reported.next_hops(routes) == {
        ip_network("10.9.0.0/24"): {ip_address("10.0.0.254"), ip_address("10.0.1.254")},
        ip_network("fd00:9::/64"): {ip_address("fd00::1")},
    }


def _route(prefix: str, *paths: list[bytes]) -> dict[str, object]:
    found = [{"path-attributes": [{"base64": base64.b64encode(one).decode()} for one in path]} for path in paths]
    return {"prefix": prefix, "paths": found}
