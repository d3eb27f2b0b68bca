"""Real agents, where a bundle is at hand: the recorded cases again, the host before and after, two labs at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from niclab import LAB_BASELINE, Lab, Settings
from niclab.agents import compiler
from niclab.agents.controlplane import Kind
from niclab.cli import FAIL, PASS, main
from niclab.host import ledgers
from niclab.host.process import environment
from niclab.settings import NodeSettings

from tests.support import bundles
from tests.support.arena import differences as changes
from tests.support.arena import state, sysctls
from tests.support.recorded import cases, command, differences

AT_HAND = bundles.by_minor()
pytestmark = [
    pytest.mark.skipif(not AT_HAND, reason=bundles.REASON),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.use(monkeypatch)


@pytest.mark.parametrize(
    ("version", "case"),
    [one for one in cases() if one.values[0] in AT_HAND] or [pytest.param("none", {}, id="no-bundle")],
)
def test_recorded_case_is_measured_again(
    version: str, case: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, as the contract says; devices, exits, NICs, counts, sources and outer addresses."""
    words = [*command(version, case), "--datapath", "cilium", "--control-plane", "kvstore"]
    assert main(words) == (FAIL if case.get("agent_exits") else PASS)
    trace = json.loads(capsys.readouterr().out)
    assert trace["datapath"] == "cilium"
    assert trace["measurement"] == {"canaries": "ok", "drops": 0, "without_carrier": []}
    assert differences(case, trace, either="ecmp" in case["case"]) == []


@pytest.fixture
def newest() -> str:
    return max(AT_HAND, key=lambda minor: [int(number) for number in minor.split(".")])


def snapshot() -> dict[str, Any]:
    """What belongs to the host: all that `ip` shows, nftables, mounts, every sysctl, its root cgroup's programs."""
    cgroups = "\n".join(bundles.root_cgroup_programs())
    return {**state(), "sysctls": sysctls(), "cgroups": cgroups, "programs": _attached_to_root_cgroup()}


def _attached_to_root_cgroup() -> str:
    """BPF programs attached to the root of cgroup v2; empty where bpftool is not installed."""
    hierarchy = next(
        (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup2 " in line), ""
    )
    try:
        found = subprocess.run(
            ["bpftool", "cgroup", "show", hierarchy], capture_output=True, text=True, check=False, env=environment()
        )
    except FileNotFoundError:
        return ""
    return found.stdout


def untouched(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What is not as it was, in words; empty when all is."""
    texts = [{key: value for key, value in one.items() if isinstance(value, str)} for one in (before, after)]
    told = [changes(texts[0], texts[1])]
    told += [
        f"{key}: {before['sysctls'].get(key)!r} → {after['sysctls'].get(key)!r}"
        for key in before["sysctls"] | after["sysctls"]
        if before["sysctls"].get(key) != after["sysctls"].get(key)
    ]
    return "\n".join(line for line in told if line)


@pytest.mark.parametrize("control_plane", bundles.control_planes())
def test_the_host_is_the_same_before_and_after(newest: str, control_plane: Kind) -> None:
    before = snapshot()
    with Lab.deploy("two-nic", datapath="cilium", cilium_version=newest, control_plane=control_plane) as lab:
        assert lab.send("pod1", "pod2").verdict == "carried"
        attachments = lab.reported["node1"].attachments
        assert all("cil_from_netdev" in attachments[nic] for nic in ("eth0", "eth1"))
        assert not [name for name in attachments if name.startswith("cable")]
        lab_cgroups = bundles.root_cgroup_programs()
        assert any(path.endswith(f"niclab-{lab.id}") for path in lab_cgroups)
        assert _attached_to_root_cgroup() == before["programs"]
    assert untouched(before, snapshot()) == ""


def test_the_host_is_the_same_after_kill_9_and_a_sweep(newest: str) -> None:
    before = snapshot()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lab = Lab.deploy("two-nic", datapath="cilium", cilium_version=newest, control_plane="kvstore")
            os.write(writing, lab.id.encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        lab_id = pipe.read()
    assert lab_id, "the lab was not built"
    assert ledgers.sweep().labs == (lab_id,)
    assert untouched(before, snapshot()) == ""


def test_two_labs_of_different_versions_at_once_do_as_alone() -> None:
    versions = sorted(AT_HAND)[:2]
    if len(versions) < 2:
        pytest.skip("needs bundles of two versions in NICLAB_CILIUM")

    def measure(version: str) -> list[tuple[str, str, tuple[str, ...]]]:
        settings = LAB_BASELINE.merged(Settings.of(devices="eth0"))
        with Lab.deploy("two-nic", settings, datapath="cilium", cilium_version=version, control_plane="kvstore") as lab:
            results = lab.send_all(lab.topology.flows)
            assert all(result.measurement.holds for result in results)
            return [(one.name, one.verdict, tuple(one.transmitted_by)) for one in results]

    alone = [measure(version) for version in versions]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(measure, versions))
    assert together == alone


def test_a_settings_change_on_a_live_lab_is_seen_on_the_wire(newest: str) -> None:
    """Agents restart, pods stay with their addresses, and eth1 masquerades once it is selected."""
    one, both = (LAB_BASELINE.merged(Settings.of(devices=devices)) for devices in ("eth0", "eth0,eth1"))
    with Lab.deploy("two-nic", one, datapath="cilium", cilium_version=newest, control_plane="kvstore") as lab:
        pod = lab.address("pod1")
        first = lab.send("pod1", "ext1")
        lab.change(both)
        second = lab.send("pod1", "ext1")
        assert lab.address("pod1") == pod
        assert lab.reported["node1"].devices == ("eth0", "eth1")
        assert second.source_seen_by("ext1") == "10.0.1.1" != first.source_seen_by("ext1")


def test_a_kept_lab_is_taken_over_with_its_agents(newest: str) -> None:
    """Traffic, a change of settings, and CiliumNodeConfigs with a selector among the settings."""
    everywhere = NodeSettings.of("all", {"mtu": "1400"}, {"kubernetes.io/hostname": "node2"})
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0")).merged(Settings(per_node=(everywhere,)))
    with Lab.deploy("two-nic", settings, datapath="cilium", cilium_version=newest, control_plane="kvstore") as lab:
        lab.keep()
        lab_id, address, reported = lab.id, lab.address("pod1"), dict(lab.reported)
    try:
        with Lab.attach(lab_id) as lab:
            assert (lab.datapath, lab.settings, lab.address("pod1")) == ("cilium", settings, address)
            assert {node: one.devices for node, one in lab.reported.items()} == {
                n: o.devices for n, o in reported.items()
            }
            assert lab.send("pod1", "pod2").verdict == "carried"
            lab.change(settings.merged(Settings.of(devices="eth0,eth1")))
            assert lab.reported["node1"].devices == ("eth0", "eth1")
            assert lab.send("pod1", "pod2").verdict == "carried"
    finally:
        ledgers.remove(lab_id)


def test_a_second_lab_compiles_only_what_differs(newest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the compiler is given one that counts. bpf_sock has its network namespace's cookie in it."""
    real = compiler.newest("clang", environment()["PATH"])
    calls = tmp_path / "calls"
    counting = tmp_path / "bin" / "clang-99"
    counting.parent.mkdir()
    counting.write_text(
        f'#!/bin/sh\ncase " $* " in *" -E "*) ;; *" -c "*) echo "$@" >>{calls} ;; esac\nexec {real} "$@"\n'
    )
    counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{counting.parent}:{os.environ['PATH']}")
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "objects"))

    def sources() -> list[str]:
        calls.write_text("")
        with Lab.deploy("two-nic", datapath="cilium", cilium_version=newest, control_plane="kvstore") as lab:
            assert lab.send("pod1", "pod2").verdict == "carried"
        return sorted(set(re.findall(r"bpf_\w+\.c", calls.read_text())))

    assert {"bpf_host.c", "bpf_lxc.c", "bpf_sock.c"} <= set(sources())
    assert sources() == ["bpf_sock.c"]


def test_up_inspect_exec_and_down_see_real_agents(newest: str, capsys: pytest.CaptureFixture[str]) -> None:
    up = ["up", "two-nic", "--id", "real", "--datapath", "cilium", "--cilium-version", newest]
    assert main([*up, "--control-plane", "kvstore"]) == PASS
    try:
        assert main(["inspect", "node1", "--id", "real"]) == PASS
        assert "KubeProxyReplacement:" in capsys.readouterr().out
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            main(["exec", "--id", "real", "node1", "--", "cilium-dbg", "status", "--brief"])
            os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        assert main(["down", "real"]) == PASS
