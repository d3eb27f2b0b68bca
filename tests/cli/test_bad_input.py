"""What `niclab` says when it is told nonsense: one clear error, exit status 2, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from niclab.cli import COULD_NOT_RUN, main

from tests.support.arena import able, in_arena
from tests.support.command import TINY, Done, here

BAD_TOPOLOGIES = {
    "a YAML syntax error": ("nodes:\n", "nodes: [\n", "tiny.yaml:5"),
    "a NIC that is not there, in a route": (
        "dev eth0]\n    pod_cidrs: 10.244.1",
        "dev eth7]\n    pod_cidrs: 10.244.1",
        "eth7",
    ),
    "an address used twice": ("10.0.0.2/24", "10.0.0.1/24", "10.0.0.1"),
    "overlapping pod CIDRs": ("10.244.2.0/24", "10.244.0.0/16", "10.244.1.0/24"),
    "an MTU below 68": ("mtu: 1500", "mtu: 67", "68"),
    "a key that is not known": ("pods: [pod2]", "podz: [pod2]", "tiny.yaml:16"),
    "a fabric that is not there": ("{fabric: f1, ", "{fabric: f7, ", "f7"),
    "a prefix that is none": ("10.0.1.1/24", "10.0.1.1/33", "tiny.yaml:7"),
    "two documents": ("externals:", "---\nexternals:", "2 documents"),
    "no topology at all": (TINY, "- 1\n", "a mapping"),
    "a sysctl that this kernel does not have": (
        "    pods: [pod2]\n",
        "    pods: [pod2]\n    sysctls: {net.ipv4.tcp_tw_recycle: 1}\n",  # gone since Linux 4.12
        "tcp_tw_recycle",
    ),
    "a sysctl that there is not": (
        "    pods: [pod2]\n",
        "    pods: [pod2]\n    sysctls: {net.ipv4.conf.eth0.rp_filtr: 1}\n",
        "did you mean net.ipv4.conf.eth0.rp_filter?",
    ),
}
BAD_WORDS = {
    "an unknown topology": (["nowhere"], "no topology is named 'nowhere'"),
    "a file that is not there": (["./nowhere.yaml"], "nowhere.yaml: no such file"),
    "an unknown key": (["two-nic", "--set", "devises=eth0"], "did you mean devices?"),
    "a setting without a value": (["two-nic", "--set", "devices"], "is not KEY=VALUE"),
    "a value of the wrong kind": (["two-nic", "--set", "tunnel-port=many"], "tunnel-port"),
    "settings of a node that is not there": (["two-nic", "--node-set", "node7:devices=eth0"], "no node 'node7'"),
    "a settings file that is not there": (["two-nic", "--settings", "./nowhere"], "nowhere: no such file"),
    "a version that is none": (["two-nic", "--cilium-version", "new"], "'new' is not a Cilium version"),
    "a version the model does not know": (["two-nic", "--cilium-version", "2.0"], "the model knows Cilium 1.16 to"),
    "a route of no node": (["two-nic", "--route", "default via 10.0.0.9"], "it names no node"),
    "a route of an unknown node": (["two-nic", "--route", "node9: default via 10.0.0.9"], "no node 'node9'"),
    "a route that is none": (["two-nic", "--route", "all: default vai 10.0.0.9"], "did you mean 'via'?"),
    "a route by a NIC that is not there": (["two-nic", "--route", "node1: 1.2.3.0/24 dev eth7"], "'eth7'"),
    "a route that is there already": (["two-nic", "--route", "node1: default via 10.0.0.254"], "--no-default-routes"),
    "a rule that is none": (["two-nic", "--rule", "all: form 1.2.3.4 lookup 7"], "did you mean 'from'?"),
}
BAD_TRACES = {
    "a flow that is none": (["two-nic", "--flow", "pod1"], "is not a flow"),
    "a flow from nowhere": (["two-nic", "--flow", "pod7 -> ext1"], "'pod7' is neither a pod, an external nor a NIC"),
    "a flow to nowhere": (["two-nic", "--flow", "pod1 -> node1.eth7"], "'node1.eth7' is neither"),
    "a flow to a host": (["two-nic", "--flow", "pod1 -> node2"], "write node2.eth0"),
    "a flow without a port": (["two-nic", "--flow", "pod1 -> ext1:udp"], "ends in a port"),
    "an expectation without a NIC": (["two-nic", "--expect", "pod1 -> ext1"], "it is not FLOW=NIC"),
    "an expectation of an unknown NIC": (["two-nic", "--expect", "pod1 -> ext1=eth7"], "node1 has no NIC 'eth7'"),
    "an expectation of no flow": (["two-nic", "--expect", "pod1=eth0"], "is not a flow"),
    "a capture in no directory": (["two-nic", "--pcap", "/nowhere/x.pcapng"], "there is no directory /nowhere"),
    "a capture that exists": (["two-nic", "--pcap", "/dev/null"], "it exists"),
    "probes too small": (["two-nic", "--size", "9"], "size 9"),
    "no flows": (["./tiny.yaml"], "give --flow"),
}


@able
def test_bad_topologies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def all_of_them() -> dict[str, list[Done]]:
        found = {}
        for name, (old, new, _) in BAD_TOPOLOGIES.items():
            assert old in TINY
            Path("tiny.yaml").write_text(TINY.replace(old, new, 1))
            commands = (["up"], ["trace", "--flow", "pod1 -> ext0"], ["validate"])
            # What only the kernel knows is not found by validating.
            found[name] = [here(*words, "./tiny.yaml") for words in commands[: 2 if "kernel" in name else 3]]
        return found

    for name, results in in_arena(all_of_them).items():
        for done in results:
            is_one_error(done, name, BAD_TOPOLOGIES[name][2])


def is_one_error(done: Done, name: str, reported: str) -> None:
    """One clear error: what, perhaps why, and how to mend; nothing on stdout, nothing left."""
    about = f"{name}: {done}"
    assert done.status == COULD_NOT_RUN, about
    assert done.out == "", about
    assert reported in done.err, about
    assert "Traceback" not in done.err, about
    assert done.err.count("fix: ") >= 1, about
    assert len(done.err.splitlines()) <= 3, about
    assert done.left == (), about


@able
def test_bad_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def all_of_them() -> dict[str, list[Done]]:
        found = {name: [here("trace", *words), here("up", *words)] for name, (words, _) in BAD_WORDS.items()}
        return {**found, **{name: [here("trace", *words)] for name, (words, _) in BAD_TRACES.items()}}

    for name, results in in_arena(all_of_them).items():
        for done in results:
            is_one_error(done, name, {**BAD_WORDS, **BAD_TRACES}[name][1])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["trace"],
        ["trace", "two-nic", "--count", "0"],
        ["trace", "two-nic", "--count", "many"],
        ["trace", "two-nic", "--size", "big"],
        ["trace", "two-nic", "-o", "xml"],
        ["trace", "two-nic", "--datapath", "ebpf"],
        ["up", "two-nic", "--id", "../etc"],
        ["up", "two-nic", "--id", "x" * 33],
        ["validate", "--schema", "cilium"],
        ["exec"],
    ],
    ids=" ".join,
)
def test_usage(words: list[str]) -> None:
    done = here(*words)
    assert (done.status, done.out) == (COULD_NOT_RUN, "")
    assert done.err.startswith("usage: niclab")


@pytest.mark.parametrize(("option", "what"), [("--pcap", "the capture"), ("--artifacts", "the artifacts")])
def test_where_nothing_can_be_written_is_named_as_what_it_is_for(
    option: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, why in ((tmp_path, "it exists"), (tmp_path / "no" / "such", "there is no directory")):
        assert main(["trace", "two-nic", option, str(place)]) == COULD_NOT_RUN
        error = capsys.readouterr().err
        assert error.startswith(f"niclab: cannot write {what} {place}")
        assert why in error


def test_braces_that_the_shell_expanded_are_hinted_at() -> None:
    done = here("predict", "two-nic", "--set", "devices=eth0", "devices=eth1")
    assert done.status == 2
    assert "unrecognized arguments: devices=eth1; a shell expands braces: quote --set 'devices={eth0,eth1}'" in done.err
