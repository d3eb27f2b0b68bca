"""`niclab` as a stranger meets it: every command."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from niclab import __all__ as public
from niclab.cli import COULD_NOT_RUN, FAIL, PASS, arguments
from niclab.host import namespace, process

from tests.support.arena import able, in_arena
from tests.support.busy import PATIENCE, wait_for
from tests.support.command import TINY, Done, here, niclab


def test_help_lists_the_commands_and_loads_nothing() -> None:
    code = (
        "import sys\nfrom niclab.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pydantic', 'scapy', 'yaml', 'niclab.lab'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    building = ("trace", "up", "down", "ls", "inspect", "exec", "sweep")
    for name in ("check", "validate", "graph", "explain", "predict", *building):
        assert re.search(rf"^ +{name} ", done.stdout, re.MULTILINE), name
    assert here("--version").out.startswith("niclab ")


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command, groups' verbs too."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from verbs(command)


def test_every_verb_has_something_to_run() -> None:
    commands = list(verbs(arguments.parser()))
    assert len(commands) > 20
    for command in commands:
        run = command.get_default("run")
        assert run, command.prog
        assert callable(arguments.loaded(argparse.Namespace(run=run))), command.prog


def test_the_public_face_is_all_there() -> None:
    import niclab

    assert all(getattr(niclab, name) is not None for name in public)
    with pytest.raises(AttributeError, match="has no attribute 'Labb'"):
        getattr(niclab, "Labb")  # noqa: B009  # mypy knows that there is none


def test_validate(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(TINY)
    (tmp_path / "values.yaml").write_text("devices: eth0\nroutingMode: native\n")
    (tmp_path / "bad.yaml").write_text(TINY.replace("mtu: 1500", "mtu: 67"))
    (tmp_path / "worse.yaml").write_text("fabrics: [\n")
    good = here("validate", str(tmp_path / "good.yaml"), str(tmp_path / "values.yaml"), "two-nic")
    assert (good.status, good.err) == (PASS, "")
    assert "good.yaml: a topology of 2 nodes with 3 NICs on 2 fabrics" in good.out
    assert "values.yaml: settings: " in good.out
    assert "devices=eth0" in good.out
    bad = here("validate", *(str(tmp_path / f"{name}.yaml") for name in ("bad", "good", "worse")))
    assert bad.status == COULD_NOT_RUN
    assert "bad.yaml:6: " in bad.err
    assert "worse.yaml:2: " in bad.err
    assert "good.yaml: a topology" in bad.out
    everything = here("validate")
    assert (everything.status, everything.err) == (PASS, "")
    assert "two-nic: a topology of 2 nodes with 4 NICs" in everything.out
    for kind in ((), ("topology",), ("trace",), ("explain",), ("predict",)):
        assert json.loads(here("validate", "--schema", *kind).out)["type"] == "object"


def test_settings_in_another_format(tmp_path: Path) -> None:
    values, more = tmp_path / "values.yaml", tmp_path / "more"
    values.write_text("devices: eth0\nbpf: {masquerade: true}\nimage: mine\n")
    more.write_text("devices=eth1\n")
    flags = here("validate", str(values), str(more), "--as", "flags")
    assert (flags.status, flags.out) == (PASS, "devices=eth1\nenable-bpf-masquerade=true\n")
    assert flags.err == f"warning: {values}: not an agent setting, left out: image\n"
    assert yaml.safe_load(here("validate", str(values), "--as", "helm").out) == {
        "devices": ["eth0"],
        "bpf": {"masquerade": True},
    }
    made = tmp_path / "configmap.yaml"
    made.write_text(here("validate", str(values), "--as", "configmap").out)
    assert "devices=eth0, enable-bpf-masquerade=true" in here("validate", str(made)).out
    (tmp_path / "topology.yaml").write_text(TINY)
    refusals: tuple[tuple[list[str], str], ...] = (
        ([], "there are no settings"),
        ([str(tmp_path / "topology.yaml")], "is a topology"),
        ([str(tmp_path / "nothing.yaml")], "no such file"),
    )
    for words, why in refusals:
        refused = here("validate", *words, "--as", "helm")
        assert refused.status == COULD_NOT_RUN
        assert why in refused.err


def test_graph() -> None:
    assert "flowchart" in here("graph", "two-nic").out
    assert here("graph", "-f", "dot", "two-nic").out.startswith("graph ")
    assert here("graph", "nowhere").status == COULD_NOT_RUN


@able
def test_trace_gives_the_answer_first() -> None:
    words = ["--set", "devices=eth1", "--cilium-version", "1.18"]
    done = here("trace", "two-nic", *words, "--flow", "pod1->ext0", "--flow", "pod1->ext1:tcp:80")
    assert (done.status, done.err) == (PASS, "")
    assert done.out.splitlines() == [
        "two-nic · tunnel (vxlan) · built-in model of Cilium 1.18",
        "",
        "pod1→ext0         left no NIC no answer  lost, 0 of 5 answered",
        "pod1→ext1:tcp:80  eth1 snat              carried, 5 of 5 answered",
        "",
        "node1, node2: devices [eth1], direct routing device eth1",
        "  eth0  not matching user filter [eth1]",
        "  eth1  matches devices [eth1]",
        "  direct routing device: the only selected device",
        "  masquerading: BPF",
        "",
        "pod1→ext0",
        "  pod1 ─ lxc ─ node1 ✗ (not seen at ext0)      no request was seen on any cable",
        "  node1.eth0 0 · node1.eth1 0 · node2.eth0 0 · node2.eth1 0",
        "  expected: no NIC, nobody on f1 has 10.0.0.100",
        "",
        "pod1→ext1:tcp:80",
        "  pod1 ─ lxc ─ node1 ═ eth1 ═ f1 ─ ext1      source seen: 10.0.1.1 (masqueraded)",
        "  ext1 ═ eth0 ═ f1 ═ eth1 ─ node1 ─ lxc ─ pod1",
        "  node1.eth0 0 · node1.eth1 5 · node2.eth0 0 · node2.eth1 0",
        "  expected: node1.eth1, 10.0.1.1 seen at ext1; back by ext1.eth0",
        "",
        "measured: canaries ok · drops 0",
    ]


@able
@pytest.mark.parametrize("topology", ["two-nic", "eight-nodes"])
def test_trace_is_no_wider_than_a_page(topology: str) -> None:
    lines = here("trace", topology).out.splitlines()
    assert [line for line in lines if len(line) > 100] == []


@able
def test_trace_warns_last() -> None:
    done = here("trace", "two-nic", "--flow", "pod1->pod2", "--set", "enable-ipsec=true")
    assert done.status == PASS
    assert done.err == "not modelled by the built-in datapath: enable-ipsec\n"
    exits = here("trace", "two-nic", "--flow", "pod1->pod2", "--set", "devices=eth9")
    assert exits.status == FAIL, "what was not measured is never a pass"
    warning, unmeasured, *_ = exits.err.splitlines()
    assert warning == "warning: devices: eth9 matches no NIC of any of 2 nodes (eth0, eth1)"
    assert unmeasured.startswith("not measured: pod1→pod2: pod1 is not plugged: the agent on node1 exits: ")
    assert "pod1→pod2  unmeasured: pod1 is not plugged: the agent on node1 exits: " in exits.out


@able
def test_expectations(tmp_path: Path) -> None:
    met = here("trace", "two-nic", "--expect", "pod1 -> ext1=eth1", "--expect", "pod1 -> ext0=node1.eth0")
    assert (met.status, met.err) == (PASS, "")
    output = ["-o", "json", "--pcap", str(tmp_path / "x.pcapng")]
    unmet = here("trace", "two-nic", "--flow", "pod1->pod2", "--expect", "pod1 -> ext1=eth0", *output)
    assert unmet.status == FAIL
    assert unmet.err.startswith(
        "pod1→ext1 must leave node1 by eth0, left by eth1 (5 of 5)\n  pod1 ─ lxc ─ node1 ═ eth1"
    )
    verdicts = {flow["to"]: flow["verdict"] for flow in json.loads(unmet.out)["flows"]}
    assert verdicts == {"pod2": "carried", "ext1": "leaked"}
    assert (tmp_path / "x.pcapng").stat().st_size > 1000
    unmeasured = here("trace", "two-nic", "--set", "devices=eth9", "--expect", "pod1 -> ext1=eth1")
    assert unmeasured.status == FAIL
    assert "pod1→ext1 must leave node1 by eth1, and was not measured: pod1 is not plugged" in unmeasured.err


@able
def test_a_reader_that_leaves_early_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m niclab.cli trace eight-nodes | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout == "eight-nodes · tunnel (vxlan) · built-in model of Cilium 1.20\n"
    assert done.stderr == ""


@able
def test_labs_that_stand(tmp_path: Path) -> None:
    """up, ls, inspect, exec, down and sweep, with two labs at once."""

    def life() -> dict[str, Any]:
        told: dict[str, Any] = {}
        told["none"] = here("ls"), here("inspect"), here("down")
        told["first"] = here(
            "up", "two-nic", "--id", "first", "--set", "devices=eth1", "--node-set", "node2:devices=eth0"
        )
        told["only"] = here("inspect")
        told["taken"] = here("up", "two-nic", "--id", "first")
        told["second"] = here("up", "dual-stack")
        told["listed"] = here("ls", "-o", "json")
        told["shown"] = here("ls")
        told["which"] = here("down")
        told["host"] = here("inspect", "--id", "first", "node1")
        told["nobody"] = here("inspect", "--id", "first", "node9")
        run = ("exec", "--id", "first", "node1", "--")
        told["exec"] = niclab(*run, "ip", "-br", "address", "show", "eth1")
        told["status"] = niclab(*run, "sh", "-c", "cat; echo said >&2; exit 7", stdin="typed\n")
        told["missing"] = niclab(*run, "no-such-program")
        told["late"] = niclab("exec", "node1", "--id", "first", "--", "true")
        told["empty"] = niclab("exec", "--id", "first", "node1")
        told["swept"] = here("sweep")
        told["down"] = here("down", "first")
        told["again"] = here("down", "first")
        told["last"] = here("down")
        return told

    told = in_arena(life)
    _labs_are_told_apart(told)
    _hosts_are_entered(told)
    assert told["swept"].out == "swept: nothing to sweep\n"
    assert (told["down"].status, told["down"].out) == (PASS, "first is down\n")
    assert told["again"].status == COULD_NOT_RUN
    second = told["second"].out.split()[0]
    assert (told["last"].status, told["last"].out, told["last"].left) == (PASS, f"{second} is down\n", ())


@able
def test_labs_whose_namespaces_are_gone_or_cannot_be_removed() -> None:
    def life() -> tuple[list[Done], list[Done]]:
        up = here("up", "single-nic", "--id", "x" * 32)
        process.run(["ip", "netns", "delete", f"{'x' * 32}-node1"])
        entered = here("exec", "node1", "--", "true")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(namespace, "remove", refuse)
            stuck = here("down"), here("sweep")
        return [up, entered], [*stuck, here("sweep")]

    def refuse(*_: object) -> bool:
        raise OSError(16, "Device or resource busy")

    [up, entered], [down, stuck, swept] = in_arena(life)
    assert (up.status, up.err) == (PASS, "")
    assert (entered.status, entered.err.splitlines()) == (
        COULD_NOT_RUN,
        [
            f"niclab: cannot enter the namespace {'x' * 32}-node1 of lab {'x' * 32}",
            "  why:  No such file or directory",
            f"  fix: niclab down {'x' * 32}, and build it again",
        ],
    )
    assert (down.status, "is not gone" in down.err) == (COULD_NOT_RUN, True)
    assert (stuck.status, stuck.out) == (COULD_NOT_RUN, "swept: nothing\n")
    assert f"could not be removed: /run/netns/{'x' * 32}-node1: Device or resource busy" in stuck.err
    assert (swept.status, swept.out, swept.left) == (PASS, f"swept: {'x' * 32}\n", ())


def _labs_are_told_apart(told: dict[str, Any]) -> None:
    nothing, *refused = told["none"]
    assert (nothing.status, nothing.out) == (PASS, "")
    assert [(one.status, one.err) for one in refused] == [(2, "niclab: no lab is up\n  fix: niclab up two-nic\n")] * 2

    first = told["first"]
    assert (first.status, first.err) == (PASS, "")
    assert first.out.startswith(
        "first is up: two-nic · tunnel (vxlan) · built-in model of Cilium 1.20\n\nnode1: devices [eth1]"
    )
    assert "\nip netns exec first-node1 …\n" in first.out
    assert first.out.endswith("\nniclab down first\n")
    assert "  devices=eth1\n" in told["only"].out
    assert "  node2:devices=eth0\n" in told["only"].out
    assert (
        "node1: devices [eth1], direct routing device eth1\n  eth0  not matching user filter [eth1]\n"
        in told["only"].out
    )
    assert "node2: devices [eth0], direct routing device eth0\n" in told["only"].out
    assert (told["taken"].status, told["taken"].err.splitlines()[0]) == (2, "niclab: there is a lab 'first' already")

    second = told["second"].out.split()[0]
    rows = {row["id"]: row for row in json.loads(told["listed"].out)}
    assert {name: (row["topology"], row["alive"], row["kept"]) for name, row in rows.items()} == {
        "first": ("two-nic", False, True),
        second: ("dual-stack", False, True),
    }
    assert "first  up  two-nic  Cilium 1.20" in told["shown"].out
    assert (told["which"].status, told["which"].out) == (COULD_NOT_RUN, "")
    assert "several labs are up" in told["which"].err


def _hosts_are_entered(told: dict[str, Any]) -> None:
    for words in (
        "eth1  matches devices [eth1]",
        "$ ip netns exec first-node1 ip rule",
        "default via 10.0.0.254 dev eth0",
    ):
        assert words in told["host"].out
    assert "lab first has no host 'node9'" in told["nobody"].err

    assert (told["exec"].status, told["exec"].err) == (0, "")
    assert "10.0.1.1/24" in told["exec"].out
    assert (told["status"].status, told["status"].out, told["status"].err) == (7, "typed\n", "said\n")
    for name, words in (
        ("missing", "is not installed"),
        ("late", "options come before the host"),
        ("empty", "no command"),
    ):
        assert told[name].status == COULD_NOT_RUN
        assert words in told[name].err
        assert "Traceback" not in told[name].err


@able
def test_an_interrupted_trace_leaves_nothing(tmp_path: Path) -> None:
    """Interrupted while it measures: by a flow of many probes that nobody answers."""
    import signal

    def interrupt() -> tuple[int, str, list[str]]:
        words = ["trace", "two-nic", "--flow", "pod1 -> ext1", "--pcap", str(tmp_path / "fifo" / "x")]
        (tmp_path / "fifo").mkdir(exist_ok=True)
        process = subprocess.Popen([sys.executable, "-m", "niclab.cli", *words], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: list(Path("/run/netns").glob("*")))
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=PATIENCE)[1]
        return process.returncode, err, [str(path) for path in Path("/run").glob("n*")]

    status, err, left = in_arena(interrupt)
    assert status == 130, err
    assert err == "niclab: interrupted; nothing of the lab is left\n"
    assert left == []


def test_what_nics_of_the_other_kind_would_change_is_said_in_one_line() -> None:
    """Only where agents detect devices: with a list both kinds are alike."""
    both = "node1 and node2 would select"
    unset = here("explain", "two-nic", "--flow", "pod1 -> ext1").out
    assert f"on veth NICs (nodes that are containers, as in kind) {both} eth0, not eth0 eth1: --nics veth" in unset
    veth = here("predict", "two-nic", "--nics", "veth", "--devices", "", "--devices", "eth1").out
    assert veth.count(f"on physical NICs (machines) {both} eth0 eth1, not eth0: --nics physical") == 1
    assert both not in here("explain", "two-nic", "--set", "devices=eth0", "--flow", "pod1 -> ext1").out
    assert (
        f"with `devices` unset, on veth NICs (nodes that are containers, as in kind) {both}"
        in here("validate", "two-nic").out
    )
