"""What surrounds a real agent: sandbox, start and end, with a stand-in that is late, hangs, exits or dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, LabError, Settings, Version, load
from niclab.agents import agent as agents
from niclab.agents import compiler, kube, reported
from niclab.agents.agent import Agent
from niclab.agents.bundle import CILIUM, Bundle, store
from niclab.agents.compiler import newest
from niclab.agents.controlplane import Kvstore
from niclab.agents.datapath import Cilium
from niclab.agents.reported import last_words
from niclab.cilium.decisions import Decisions
from niclab.host import ledgers, readiness
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import is_alive, start_time
from niclab.kernel.plan import Plan

from tests.support import standin
from tests.support.arena import able, in_arena

REFUSED = "unable to determine direct routing device. Use --direct-routing-device to specify it"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            (
                'time=2026-11-23T09:58:15Z level=fatal msg="unable to run agent: failed to start: daemon configuration '
                f'failed: {REFUSED}" subsys=daemon'
            ),
            REFUSED,
        ),
        (
            (
                'time=2026-11-23T09:58:31Z level=fatal msg="unable to run agent: failed to start: daemon creation '
                f'failed: {REFUSED}" subsys=daemon'
            ),
            REFUSED,
        ),
        (
            (
                'time=2026-11-23T09:58:23Z level=fatal msg="unable to run agent: failed to start: failed to init and '
                'validate daemon config: BPF masquerade requires (--enable-ipv4-masquerade=\\"true\\" or '
                '--enable-ipv6-masquerade=\\"true\\")" subsys=daemon'
            ),
            'BPF masquerade requires (--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")',
        ),
        (
            (
                f'level=fatal msg="unable to run agent: failed to start: daemon creation failed: {REFUSED}'
                '\\nfailed to stop: unable to find controller ipcache-inject-labels" subsys=daemon'
            ),
            REFUSED,
        ),
        (
            'level=fatal msg="failed to compile bpf_sock.c" error="Failed to compile bpf_sock.o: signal: killed"',
            "failed to compile bpf_sock.c: Failed to compile bpf_sock.o: signal: killed",
        ),
        (
            (
                'level=fatal msg="unable to run agent: failed to populate object graph: egress gateway is not '
                'supported in kvstore identity allocation mode" subsys=daemon'
            ),
            "egress gateway is not supported in kvstore identity allocation mode",
        ),
        ("Error: unknown flag: --devicez", "Error: unknown flag: --devicez"),
        ("panic: runtime error: index out of range", "panic: runtime error: index out of range"),
    ],
)
def test_last_words_are_the_reason_without_its_wrapping(line: str, words: str) -> None:
    """The lines are those of agents of 1.20 and 1.18; what comes before and after does not matter."""
    log = f'time=1 level=info msg="starting"\n{line}\n'
    assert last_words(log) == words


def test_last_words_prefer_the_fatal_line_to_errors_after_it() -> None:
    log = 'level=fatal msg="the reason"\nlevel=error msg="deletionQueue: failed" error="context canceled"\n'
    assert last_words(log) == "the reason"
    assert last_words("") is None


@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_said_of_recorded_agents(version: str) -> None:
    """Agents of both versions with devices=eth0,eth1."""
    status = standin.recorded_status(version)
    node = reported.reported(
        status, standin.recorded(f"devices-{version}.json"), standin.recorded(f"node-addresses-{version}.json")
    )
    assert node.devices == ("eth0", "eth1")
    assert node.direct_routing_device == "eth0"
    assert (node.masquerading, node.routing, node.host_routing) == ("BPF", "tunnel (vxlan)", "BPF")
    assert node.reasons["eth0"] == "selected"
    assert node.reasons["cilium_host"] == "not matching user filter [eth0 eth1]"
    assert "10.0.1.1 on eth1 (primary, nodeport)" in node.node_ips


def test_services_and_attachments_of_an_agent(tmp_path: Path) -> None:
    """StateDB's frontends, one JSON object after the other; links pinned below a node's bpffs."""
    rows = [
        {"Address": "10.96.0.10:80/TCP", "Type": "ClusterIP", "Backends": [{"Address": "10.244.2.5:80/TCP"}]},
        {"Address": "0.0.0.0:30080/TCP", "Type": "NodePort", "Backends": None},
    ]
    text = "\n".join(json.dumps(row, indent=2) for row in rows)
    assert reported.frontend_rows(text) == [
        "0.0.0.0:30080/TCP NodePort → no backend",
        "10.96.0.10:80/TCP ClusterIP → 10.244.2.5:80/TCP",
    ]
    for name in ("eth0/links/cil_from_netdev", "eth0/links/cil_to_netdev", "cilium_host/links/cil_to_host"):
        link = tmp_path / "cilium" / "devices" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.touch()
    assert reported.attached(tmp_path) == {
        "cilium_host": ("cil_to_host",),
        "eth0": ("cil_from_netdev", "cil_to_netdev"),
    }
    assert reported.attached(tmp_path / "nowhere") == {}


def test_the_compiler_is_the_newest_by_name_then_the_plain_one(tmp_path: Path) -> None:
    for name in ("clang", "clang-14", "clang-19", "clang-9", "clang-cpp-19"):
        (tmp_path / name).touch()
    assert newest("clang", str(tmp_path)) == tmp_path / "clang-19"
    (tmp_path / "clang-19").unlink()
    assert newest("clang", f"/nonexistent:{tmp_path}") == tmp_path / "clang"
    assert newest("llc", str(tmp_path)) is None


def test_what_an_agent_finds_first_on_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest compiler of the host, behind what keeps its objects; by its own name where nothing is kept."""
    host = tmp_path / "host"
    host.mkdir()
    for name in ("clang-19", "llc-19"):
        (host / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(host))
    bundle = Bundle(CILIUM, "mine", "1.20.7", tmp_path, "directory")
    found = compiler.provide(tmp_path / "bin", bundle, tmp_path / "kept")
    assert f"real={host}/clang-19 " in (found / "clang").read_text()
    assert (found / "llc").readlink() == host / "llc-19"
    compiler.provide(found, bundle, None)
    assert (found / "clang").readlink() == host / "clang-19"


def test_an_images_own_compiler_is_stood_before_as_the_image_names_it(tmp_path: Path) -> None:
    bundle = Bundle(CILIUM, "v1", "1.20.7", tmp_path, "image")
    assert list(compiler.provide(tmp_path / "bin", bundle, tmp_path / "kept").iterdir()) == []
    inner = tmp_path / "rootfs" / "usr" / "local" / "bin"
    inner.mkdir(parents=True)
    (inner / "clang").touch()
    found = compiler.provide(tmp_path / "bin", bundle, tmp_path / "kept")
    assert "real=/usr/local/bin/clang " in (found / "clang").read_text()
    assert list(compiler.provide(found, bundle, None).iterdir()) == []


class NoControlPlane(Kvstore):
    """A control plane for stand-ins, which need none."""

    @property
    def agent_settings(self) -> Mapping[str, str]:
        return {"node-labels": "a=b"}

    def add_pod(self, pod: kube.Object) -> Mapping[str, str]:
        return {"CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod['metadata']['name']}"}


@contextmanager
def standing(directory: Path, **settings: str) -> Iterator[tuple[Cilium, Decisions]]:
    """Two nodes with stand-in agents that are not started yet; `labels` tells the stand-in what to do."""
    agents.LINK_PATIENCE = 0.05  # stand-ins make no links
    path = standin.make(directory / "bundle")
    bundle = Bundle(CILIUM, "stand-in", "1.20.7", path, "directory")
    topology = load("two-nic")
    decisions = Decisions(topology, LAB_BASELINE.merged(Settings.of(**settings)), Version(1, 20))
    ledger = Ledger.open_new()
    substrate = NetnsSubstrate(ledger)
    cgroup = directory / "cgroup"
    cgroup.mkdir()
    made: dict[str, Agent] = {}
    try:
        substrate.apply(Plan(topology).operations)
        readiness.wait(substrate)
        plane = NoControlPlane(ledger, ExitStack())
        for name in topology.nodes:
            made[name] = Agent(name, bundle, ledger, plane.agent_environment(name))
            made[name].prepare(substrate[name].path, cgroup / name, binds=(str(directory),))
            made[name].wait_for_sandbox()
        datapath = Cilium(substrate, ledger, bundle, None, "kvstore")
        datapath.topology, datapath.control_plane, datapath.agents = topology, plane, made
        yield datapath, decisions
    finally:
        for one in made.values():
            one.close()
        substrate.close()
        ledger.release()


def _clang(directory: Path) -> None:
    """Sandboxes of directory bundles want a compiler; stand-ins compile nothing."""
    programs = directory / "compiler"
    programs.mkdir()
    for name in ("clang-19", "llc-19"):
        (programs / name).touch(mode=0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"


@able
def test_an_agent_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    def work() -> list[str]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0,eth1", labels="late:0.5") as (datapath, decisions):
            for name, one in datapath.agents.items():
                one.start(datapath._values(decisions, name))
            for one in datapath.agents.values():
                one.wait()
            return [*(one.exited or "runs" for one in datapath.agents.values()), *datapath.reported()["node1"].devices]

    assert in_arena(work) == ["runs", "runs", "eth0", "eth1"]


@able
@pytest.mark.parametrize("mode", ["hang", "rubbish"])
def test_an_agent_that_never_gets_ready_is_an_error_that_names_its_log(tmp_path: Path, mode: str) -> None:
    def work() -> str:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0", labels=mode) as (datapath, decisions):
            one = datapath.agents["node1"]
            one.start(datapath._values(decisions, "node1"))
            try:
                one.wait(0.5)
            except LabError as error:
                return str(error)
        return "it was waited for"

    words = in_arena(work)
    assert "the agent on node1 is not ready after 0.5 s" in words
    assert "agent-1.log" in words


@able
def test_what_cannot_be_asked_is_an_error_in_the_evidence(tmp_path: Path) -> None:
    """Of a node whose sandbox has ended every program fails; none of its files may be empty."""

    def work() -> dict[str, str]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0") as (datapath, _):
            one = datapath.agents["node1"]
            one.holder.stop()
            one.collect(tmp_path / "evidence")
        return {path.name: path.read_text() for path in (tmp_path / "evidence").iterdir() if path.suffix != ".log"}

    found = in_arena(work)
    assert len(found) == 9
    assert all(text.startswith("failed with status") for name, text in found.items() if name.endswith(".txt"))
    assert found["devices.json"] == found["node-addresses.json"] == "the agent did not answer\n"


@able
def test_an_agent_that_exits_is_an_observation(tmp_path: Path) -> None:
    def work() -> list[str | None]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth9", labels=f"exit:daemon creation failed: {REFUSED}") as (datapath, told):
            for name, one in datapath.agents.items():
                one.start(datapath._values(told, name))
                one.wait()
            return [one.agent_exits for one in datapath.reported().values()]

    assert in_arena(work) == [REFUSED, REFUSED]


@able
def test_an_agent_that_dies_later_is_noticed_once(tmp_path: Path) -> None:
    def work() -> list[object]:
        _clang(tmp_path)
        word = tmp_path / "word"
        with standing(tmp_path, devices="eth0", labels=f"die:{word}") as (datapath, told):
            one = datapath.agents["node1"]
            one.start(datapath._values(told, "node1"))
            one.wait()
            before = dict(datapath.deaths())
            word.touch()
            assert one.daemon is not None
            one.daemon.process.wait(10)
            found = {name: node.agent_exits for name, node in datapath.deaths().items()}
            return [before, found, dict(datapath.deaths())]

    assert in_arena(work) == [{}, {"node1": "died with status 7: the stand-in dies as told"}, {}]


@able
def test_settings_change_on_a_live_lab_and_pods_stay(tmp_path: Path) -> None:
    def work() -> list[object]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0") as (datapath, told):
            # Each stand-in knows only its own pods.
            from niclab.agents import datapath as module

            module._missing = lambda agent, wanted: []  # noqa: ARG005
            datapath.change(told)
            pods = dict(datapath.addresses)
            pid = datapath.agents["node1"].daemon.pid if datapath.agents["node1"].daemon else 0
            other = Decisions(told.topology, told.settings.merged(Settings.of(devices="eth1")), told.version)
            datapath.change(other)
            return [
                datapath.reported()["node1"].devices,
                datapath.addresses == pods,
                sorted(map(str, (address for found in pods.values() for address in found))),
                start_time(pid),
            ]

    assert in_arena(work) == [("eth1",), True, ["10.244.1.100", "10.244.2.100"], None]


@able
def test_agents_of_a_kept_lab_are_taken_over(tmp_path: Path) -> None:
    """Those that run, the one that had exited, and a change of settings by whoever took them over."""

    def work() -> list[object]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0") as (datapath, told):
            from niclab.agents import datapath as module

            module._missing = lambda agent, wanted: []  # noqa: ARG005
            datapath.change(told)
            datapath.agents["node2"].stop()
            datapath.agents["node2"].exited = "as told"
            kept = json.loads(json.dumps(datapath.kept()))

            def another() -> Cilium:
                return Cilium(datapath._substrate, datapath._ledger, datapath._bundle, None, "kvstore")

            again = another()
            again.attach(told, kept)
            found = [again.addresses == datapath.addresses, again.deaths()]
            found += [again.reported()[node].agent_exits for node in ("node1", "node2")]
            other = Decisions(told.topology, told.settings.merged(Settings.of(devices="eth1")), told.version)
            again.change(other)
            found += [one.devices for one in again.reported().values()]
            os.kill(again.agents["node1"].holder.pid, signal.SIGKILL)
            datapath.agents["node1"].holder.process.wait()
            try:
                another().attach(told, kept)
            except LabError as error:
                found.append(error.why)
            again.close()
            return found

    *found, why = in_arena(work)
    assert found == [True, {}, None, "as told", ("eth1",), ("eth1",)]
    assert str(why).startswith("the sandbox of node1 has ended")


@able
def test_an_image_is_not_removed_while_a_room_stands_on_it(tmp_path: Path) -> None:
    """Also when the lab that made the sandbox has let go of it: the sandbox itself holds the bundle."""

    def work() -> list[str]:
        os.environ["NICLAB_HOME"] = str(tmp_path / "home")
        image = store.place(CILIUM) / "v1"
        (image / "rootfs").mkdir(parents=True)
        bundle = Bundle(CILIUM, "v1", "1.20.7", image, "image", "a test")
        store.write_record(image, bundle)
        ledger = Ledger.open_new()
        substrate = NetnsSubstrate(ledger)
        cgroup = tmp_path / "cgroup"
        cgroup.mkdir()
        found = []
        try:
            substrate.apply(Plan(load("two-nic")).operations)
            with store.held(bundle) as holds:
                one = Agent("node1", bundle, ledger, {})
                one.prepare(substrate["node1"].path, cgroup / "node1", holds=holds)
                one.wait_for_sandbox()
            try:
                store.remove(CILIUM, "v1")
            except LabError as error:
                found.append(error.what)
            one.close()
            found.append(store.remove(CILIUM, "v1").name)
        finally:
            substrate.close()
            ledger.release()
        return found

    assert in_arena(work) == ["the Cilium bundle 'v1' is in use by a lab", "v1"]


@able
def test_the_room_shows_the_node_and_shields_the_host(tmp_path: Path) -> None:
    """Its own host name, network devices, /run and bpffs; the host's sysctls can be read and not written."""

    def work() -> dict[str, str]:
        _clang(tmp_path)
        with standing(tmp_path, devices="eth0") as (datapath, _):
            one = datapath.agents["node1"]

            def see(*program: str) -> str:
                done = subprocess.run(one.command(list(program)), capture_output=True, text=True, check=False)
                return (done.stdout + done.stderr).strip()

            return {
                "name": see("uname", "-n"),
                "devices": see("ls", "/sys/class/net"),
                "bpf": see("sh", "-c", "grep ' bpf ' /proc/self/mounts | cut -d' ' -f2"),
                "sysctl": see("sh", "-c", "echo 1 > /proc/sys/kernel/timer_migration"),
                "net": see("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter && echo written"),
                "run": see("ls", "/run"),
                "cgroup": see("ls", "-d", "/run/cilium/cgroupv2"),
            }

    seen = in_arena(work)
    assert seen["name"] == "node1"
    assert {"lo", "eth0", "eth1"} <= set(seen["devices"].split())
    assert seen["bpf"] == "/sys/fs/bpf"
    assert "Read-only file system" in seen["sysctl"]
    assert seen["net"] == "written"
    assert set(seen["run"].split()) <= {"cilium", "netns", "niclab"}
    assert seen["cgroup"] == "/run/cilium/cgroupv2"


@able
def test_agents_of_a_killed_lab_are_swept(tmp_path: Path) -> None:
    """kill -9 of the lab leaves agents and sandboxes; a sweep ends them by the ledger, and their directories go."""

    def work() -> list[object]:
        _clang(tmp_path)
        child = os.fork()
        if child == 0:
            with standing(tmp_path, devices="eth0") as (datapath, told):
                for name, one in datapath.agents.items():
                    one.start(datapath._values(told, name))
                    one.wait()
                pids = [d.pid for one in datapath.agents.values() for d in (one.holder, one.daemon) if d]
                (tmp_path / "pids").write_text(json.dumps([(pid, start_time(pid)) for pid in pids]))
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        pids = json.loads((tmp_path / "pids").read_text())
        alive = sum(is_alive(pid, start) for pid, start in pids)
        swept = ledgers.sweep()
        return [alive, len(swept.labs), [pid for pid, start in pids if is_alive(pid, start)], ledgers.labs()]

    assert in_arena(work) == [4, 1, [], []]
