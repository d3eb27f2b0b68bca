#!/usr/bin/env python3
"""What the program answers: a list of command lines, a recording of the answers, and a comparison of two recordings.

    answers.py list NET --load niclab.check:load --topologies topologies
    answers.py record NET NET/base --entry niclab.cli:main
    answers.py compare NET/base NET/new --accept renames.txt

`list` and `record` find the package by PYTHONPATH. Nothing of it is imported but what the options name.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import importlib
import io
import json
import multiprocessing
import operator
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

VERSIONS = tuple(f"1.{minor}" for minor in range(16, 22))
MOST_FLOWS = 40
"""How many flows `explain` and `trace` are asked for at once."""


class Command(NamedTuple):
    """One line of the list. The id is a relative path without dots and blanks at its ends."""

    id: str
    argv: tuple[str, ...]


# --- list -------------------------------------------------------------------------------------------------------------

_VERBS = ("check", "validate", "graph", "trace", "explain", "predict", "up", "down", "ls", "inspect", "exec", "sweep")
HELP = (
    *((verb,) for verb in (*_VERBS, "diff", "parity", "claims", "issues", "cilium", "kubernetes")),
    *((product, verb) for product in ("cilium", "kubernetes") for verb in ("pull", "load", "add", "ls", "rm")),
)

ASKED: Mapping[str, tuple[str, ...]] = {
    "topology-unknown": ("nowhere",),
    "topology-absent": ("./nowhere.yaml",),
    "topology-none": ("inputs/odd/list.yaml",),
    "key-unknown": ("two-nic", "--set", "devises=eth0"),
    "key-unmodelled": ("two-nic", "--set", "enable-hubble=true", "--set", "bpf-map-dynamic-size-ratio=0.01"),
    "value-missing": ("two-nic", "--set", "devices"),
    "value-wrong": ("two-nic", "--set", "tunnel-port=many"),
    "value-outside": ("two-nic", "--set", "routing-mode=both"),
    "node-unknown": ("two-nic", "--node-set", "node7:devices=eth0"),
    "node-missing": ("two-nic", "--node-set", "devices=eth0"),
    "settings-absent": ("two-nic", "--settings", "./nowhere"),
    "settings-wrong": ("two-nic", "--settings", "inputs/odd/wrong.settings"),
    "version-none": ("two-nic", "--cilium-version", "new"),
    "version-strange": ("two-nic", "--cilium-version", "2.0"),
    "version-old": ("two-nic", "--cilium-version", "1.15"),
    "route-nowhere": ("two-nic", "--route", "default via 10.0.0.9"),
    "route-node-unknown": ("two-nic", "--route", "node9: default via 10.0.0.9"),
    "route-none": ("two-nic", "--route", "all: default vai 10.0.0.9"),
    "route-nic-unknown": ("two-nic", "--route", "node1: 1.2.3.0/24 dev eth7"),
    "route-twice": ("two-nic", "--route", "node1: default via 10.0.0.254"),
    "rule-none": ("two-nic", "--rule", "all: form 1.2.3.4 lookup 7"),
    "sysctl-none": ("two-nic", "--sysctl", "all: kernel.hostname=x"),
    "node-ip-none": ("two-nic", "--node-ip", "node1: 10.9.9.9"),
    "flow-none": ("two-nic", "--flow", "pod1"),
    "flow-from-nowhere": ("two-nic", "--flow", "pod7 -> ext1"),
    "flow-to-nowhere": ("two-nic", "--flow", "pod1 -> node1.eth7"),
    "flow-to-a-node": ("two-nic", "--flow", "pod1 -> node2"),
    "flow-without-port": ("two-nic", "--flow", "pod1 -> ext1:udp"),
    "flows-none": ("inputs/odd/flowless.yaml",),
    "native-without-cidr": ("two-nic", "--set", "routing-mode=native", "--set", "enable-bpf-masquerade=false"),
    "devices-absent": ("two-nic", "--devices", "eth9", "--devices", "eth1"),
    "count-zero": ("two-nic", "--count", "0"),
    "output-strange": ("two-nic", "-o", "xml"),
    "nothing": (),
}
"""Odd words for the verbs that take a topology and settings; most are wrong, some are only for one of them."""

GOOD: Mapping[str, tuple[str, ...]] = {
    "plain": ("two-nic",),
    "node-set": ("two-nic", "--node-set", "node1:devices=eth1"),
    "route": ("two-nic", "--route", "all: 10.244.0.0/16 via 10.0.1.254 dev eth1"),
    "rule": ("two-nic", "--rule", "node1: from 10.244.1.0/24 lookup 7", "--route", "node1: default dev eth1 table 7"),
    "sysctl": ("two-nic", "--sysctl", "all: net.ipv4.conf.eth1.rp_filter=1"),
    "node-ip": ("two-nic", "--node-ip", "node1: 10.0.1.1"),
    "no-default-routes": ("two-nic", "--no-default-routes"),
    "native": ("two-nic", "--set", "routing-mode=native"),
    "unmasqueraded": ("three-nic", "--set", "enable-ipv4-masquerade=false"),
    "udp-and-tcp": ("two-nic", "--flow", "pod1 -> ext1:udp:53", "--flow", "pod1 -> node2.eth1:tcp:80"),
    "helm": ("two-nic", "--settings", "inputs/settings/values.yaml"),
    "configmap": ("two-nic", "--settings", "inputs/settings/configmap.yaml", "--set", "devices=eth1"),
    "node-config": ("two-nic", "--settings", "inputs/settings/nodeconfig.yaml"),
    "expect-met": ("two-nic", "--set", "devices=eth0", "--expect", "pod1 -> pod2=eth0"),
    "expect-unmet": ("two-nic", "--set", "devices=eth0", "--expect", "pod1 -> pod2=eth1"),
    "expect-nic-unknown": ("two-nic", "--expect", "pod1 -> ext1=eth7"),
    "expect-none": ("two-nic", "--expect", "pod1=eth0"),
    "bgp": ("two-tors",),
    "ipv6": ("dual-stack", "--set", "enable-ipv6=true"),
    "services": ("services",),
}
"""More ways of asking, for all of `predict`, `explain` and `trace`."""

OTHERS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "unknown": ("frobnicate",),
    "version": ("--version",),
    "validate-schema-unknown": ("validate", "--schema", "cilium"),
    "validate-absent": ("validate", "./nowhere.yaml"),
    "validate-as-nothing": ("validate", "--as", "helm"),
    "validate-as-topology": ("validate", "inputs/odd/flowless.yaml", "--as", "flags"),
    "validate-as-strange": ("validate", "inputs/settings/values.yaml", "--as", "toml"),
    "validate-wrong-settings": ("validate", "inputs/odd/wrong.settings"),
    "graph-unknown": ("graph", "nowhere"),
    "graph-format": ("graph", "two-nic", "-f", "svg"),
    "up-id": ("up", "two-nic", "--id", "../etc"),
    "up-id-long": ("up", "two-nic", "--id", "x" * 33),
    "up-datapath": ("up", "two-nic", "--datapath", "ebpf"),
    "up-topology": ("up", "nowhere", "--datapath", "builtin"),
    "trace-cilium": ("trace", "two-nic", "--datapath", "cilium", "--cilium-version", "1.18"),
    "trace-pcap": ("trace", "two-nic", "--datapath", "builtin", "--pcap", "/nowhere/x.pcapng"),
    "trace-pcap-exists": ("trace", "two-nic", "--datapath", "builtin", "--pcap", "/dev/null"),
    "trace-size": ("trace", "two-nic", "--datapath", "builtin", "--size", "9"),
    "trace-artifacts": ("trace", "two-nic", "--datapath", "builtin", "--artifacts", "/dev/null"),
    "ls": ("ls",),
    "ls-json": ("ls", "-o", "json"),
    "down": ("down",),
    "down-unknown": ("down", "lab9"),
    "inspect": ("inspect",),
    "inspect-unknown": ("inspect", "node1", "--id", "lab9"),
    "exec": ("exec",),
    "exec-nowhere": ("exec", "node1", "--", "true"),
    "sweep": ("sweep",),
    "sweep-strange": ("sweep", "lab9"),
    "diff-absent": ("diff", "./nowhere.json"),
    "diff-none": ("diff", "inputs/odd/list.yaml", "inputs/odd/list.yaml"),
    "parity-unknown": ("parity", "nowhere"),
    "parity-case-unknown": ("parity", "two-nic", "--case", "nothing-is-called-so"),
    "parity-no-bundle": ("parity", "two-nic", "--cilium", "1.18", "--case", "vxlan-eth0"),
    "claims-absent": ("claims", "--record", "./nowhere.json"),
    "claims-none": ("claims", "--record", "inputs/odd/list.yaml"),
    "issues-word": ("issues", "first"),
    "issues-absent": ("issues", "--record", "./nowhere.json"),
    "cilium": ("cilium",),
    "cilium-ls": ("cilium", "ls"),
    "cilium-ls-json": ("cilium", "ls", "-o", "json"),
    "cilium-rm": ("cilium", "rm", "1.18"),
    "cilium-load": ("cilium", "load", "./nowhere.tar"),
    "cilium-add": ("cilium", "add", "mine", "./nowhere"),
    "cilium-pull-digest": ("cilium", "pull", "1.18.3", "--digest", "md5:1"),
    "kubernetes-ls": ("kubernetes", "ls"),
    "kubernetes-rm": ("kubernetes", "rm", "1.34"),
    "kubernetes-load": ("kubernetes", "load", "./nowhere.tar"),
    "kubernetes-add": ("kubernetes", "add", "mine", "./nowhere"),
    "check-output": ("check", "-o", "xml"),
}

INPUTS: Mapping[str, str] = {
    "odd/list.yaml": "- 1\n",
    "odd/wrong.settings": "devices=eth0\ntunnel-port=many\ndevises=eth1\n",
    "odd/flowless.yaml": """\
name: flowless
fabrics: {f0: }
nodes:
  node1:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.1/24}}
    pod_cidrs: 10.244.1.0/24
    pods: [pod1]
  node2:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.2/24}}
    pod_cidrs: 10.244.2.0/24
    pods: [pod2]
""",
    "settings/values.yaml": """\
devices: [eth0, eth1]
routingMode: native
ipv4NativeRoutingCIDR: 10.244.0.0/16
autoDirectNodeRoutes: true
kubeProxyReplacement: true
bpf: {masquerade: true, hostLegacyRouting: false}
hubble: {enabled: false}
""",
    "settings/configmap.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data:
  devices: eth0
  routing-mode: tunnel
  tunnel-protocol: vxlan
  enable-ipv4-masquerade: "true"
  enable-bpf-masquerade: "true"
  kube-proxy-replacement: "true"
  enable-ipv6: "false"
  bpf-lb-mode: dsr
  bpf-lb-dsr-dispatch: opt
""",
    "settings/nodeconfig.yaml": """\
apiVersion: cilium.io/v2
kind: CiliumNodeConfig
metadata: {name: second, namespace: kube-system}
spec:
  nodeSelector: {matchLabels: {kubernetes.io/hostname: node2}}
  defaults: {devices: eth1}
""",
    "settings/flags": "# what a person types\n--devices=eth0,eth1\nenable-endpoint-routes=true\nnode1:devices=eth1\n",
}


def list_commands(options: argparse.Namespace) -> int:
    """Write argv.jsonl, and the settings and inputs that its lines name."""
    net = Path(options.net)
    topologies = sorted(path.stem for path in Path(options.topologies).glob("*.yaml"))
    if not topologies:
        return _complain(f"{options.topologies} has no topologies")
    made = [
        *_small(net, topologies, Path(options.mistakes)),
        *_cased(net, topologies, _named(options.load), importlib.import_module(options.cases), options),
    ]
    if len({one.id for one in made}) != len(made):
        return _complain("an id is there twice")
    with (net / "argv.jsonl").open("w") as file:
        for one in made:
            file.write(json.dumps({"id": one.id, "argv": one.argv}, ensure_ascii=False) + "\n")
    for kind, count in sorted(Counter(one.id.partition("/")[0] for one in made).items()):
        print(f"{count:6} {kind}")
    print(f"{len(made):6} in all")
    return 0


def _small(net: Path, topologies: Sequence[str], mistakes: Path) -> Iterator[Command]:
    """Help, topologies, mistakes, odd words."""
    for name, text in INPUTS.items():
        _write(net / "inputs" / name, text)
    yield Command("help/niclab", ("--help",))
    for words in HELP:
        yield Command(f"help/{'-'.join(words)}", (*words, "--help"))
    for name in topologies:
        yield Command(f"validate/topology/{name}", ("validate", name))
        yield Command(f"graph/mermaid/{name}", ("graph", name))
        yield Command(f"graph/dot/{name}", ("graph", name, "--format", "dot"))
        yield Command(f"parity/list/{name}", ("parity", name, "--list"))
    yield Command("validate/every-topology", ("validate",))
    for schema in ("topology", "trace", "explain", "predict"):
        yield Command(f"validate/schema/{schema}", ("validate", "--schema", schema))
    for mistake in sorted(mistakes.glob("*.yaml")):
        path = Path("inputs", "mistakes", mistake.name)
        _write(net / path, mistake.read_text())
        yield Command(f"validate/mistake/{mistake.stem}", ("validate", str(path)))
    for name in (name for name in INPUTS if name.startswith("settings/")):
        yield Command(f"validate/{_slug(name)}", ("validate", f"inputs/{name}"))
        for wanted in ("configmap", "helm", "flags"):
            yield Command(f"validate/{_slug(name)}/{wanted}", ("validate", f"inputs/{name}", "--as", wanted))
    for name, words in OTHERS.items():
        yield Command(f"other/{name}", words)
    for verb in ("predict", "explain", "trace", "up"):
        modelled = ("--datapath", "builtin") if verb in ("trace", "up") else ()
        for name, words in ASKED.items():
            if verb != "up" or name not in _BUILDS:
                yield Command(f"odd/{verb}/{name}", (verb, *words, *modelled))
    for verb in ("predict", "explain", "trace"):
        modelled = ("--datapath", "builtin") if verb == "trace" else ()
        for name, words in GOOD.items():
            if (verb, name) != ("trace", "bgp"):  # a hash decides: only in JSON can what it chose be told from the rest
                yield Command(f"asked/{verb}/{name}", (verb, *words, *modelled))
            yield Command(f"asked/{verb}/{name}-json", (verb, *words, *modelled, "-o", "json"))
    for name in topologies:
        for version in VERSIONS:
            rows = ("", "eth0", "eth1", "eth0,eth1", "eth+", "eth9")
            words = (name, "--cilium-version", version, *(w for row in rows for w in ("--devices", row)))
            yield Command(f"asked/matrix/{name}/{version}", ("predict", *words))


_BUILDS = ("key-unmodelled", "native-without-cidr", "flows-none")
"""Odd words that are right: `up` would build a lab and let it stand."""


def _cased(
    net: Path, topologies: Sequence[str], load: Callable[[str], Any], module: Any, options: argparse.Namespace
) -> Iterator[Command]:
    """The parity cases of every topology and version: all of `predict` first, `trace` last."""
    verbs: Mapping[str, tuple[str, int | None, tuple[str, ...]]] = {
        "predict": ("predict", None, ("-o", "json")),
        "explain": ("explain", MOST_FLOWS, ("-o", "json")),
        "explain-text": ("explain", MOST_FLOWS, ()),
        "trace": ("trace", MOST_FLOWS, ("--datapath", "builtin", "-o", "json")),
    }
    told = {}
    for name in topologies:
        topology = load(name)
        told[name] = (list(module.cases(topology)), [str(flow) for flow in module.flows(topology)])
        for case in told[name][0]:
            if case.settings.per_node:
                raise ValueError(f"{name} {case.name}: settings of single nodes cannot be said in lines")
            lines = (f"{key}={value}\n" for key, value in case.settings.values.items())
            _write(net / _settings_of(name, case.name), "".join(lines))
    for kind, (verb, most, rest) in verbs.items():
        versions = options.trace_versions.split(",") if kind == "trace" else VERSIONS
        for name in topologies:
            cases, every = told[name]
            words = [word for flow in _spread(every, most) for word in ("--flow", flow)]
            for version in versions:
                for case in cases:
                    if case.fits(_named("niclab.cilium.version:Version.parse")(version)):
                        common = (name, "--settings", _settings_of(name, case.name), "--cilium-version", version)
                        yield Command(f"{kind}/{name}/{version}/{case.name}", (verb, *common, *words, *rest))


def _settings_of(topology: str, case: str) -> str:
    return f"settings/{topology}/{case}"


def _spread(found: Sequence[str], most: int | None) -> Sequence[str]:
    """At most so many of them, evenly spread."""
    if most is None or len(found) <= most:
        return found
    return [found[index * len(found) // most] for index in range(most)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.replace("{n}", "number").lower()).strip("-")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- record -----------------------------------------------------------------------------------------------------------

ENVIRONMENT = {
    "COLUMNS": "120",
    "LINES": "40",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",
    "NICLAB_HOME": "/nonexistent/niclab",
    "PYTHONHASHSEED": "0",
}
"""What would otherwise show in the answers. The hash seed stands for the order of sets."""

PATIENCE = 120
"""Seconds for one command."""

ATTEMPTS = 3
"""A trace that was not measured is made again: on a busy machine canaries can be late."""

_OBSERVED = ("received", "verdict", "transmitted_by", "server_saw_source")
_ONE_OF_THEM = "one of the expected ways"

_NEWNS, _NEWNET, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x20000, 0x40000000, 0x4000, 0x80000, 2

_source = random.Random()


@dataclass(frozen=True)
class Answer:
    """What one command said."""

    status: str
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def record(options: argparse.Namespace) -> int:
    """Run every command of the list, and write what each says."""
    if os.geteuid() != 0:
        return _complain("record as root: each worker has a network and a mount namespace of its own")
    wanted = {**ENVIRONMENT, "PYTHONHASHSEED": options.hash_seed}
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        kept = {key: os.environ[key] for key in ("HOME", "PATH", "PYTHONPATH") if key in os.environ}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**kept, **wanted})
    net, results = Path(options.net).resolve(), Path(options.results).resolve()
    commands = list(_chosen(net, results, options))
    status = Path(options.status).resolve() if options.status else None
    os.chdir(net)
    _predictable_secrets()
    module = importlib.import_module(options.entry.partition(":")[0])
    _tell(f"{results.name}: {len(commands)} commands, asked of {module.__file__}", status)
    begun, done, unhandled = time.monotonic(), 0, 0
    pool = ProcessPoolExecutor(
        options.workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_enter_namespaces,
        initargs=(options.nice,),
    )
    with pool:
        futures = [
            pool.submit(_record_some, commands[at : at + _PART], options.entry, results)
            for at in range(0, len(commands), _PART)
        ]
        for future in as_completed(futures):
            count, bad = future.result()
            done, unhandled = done + count, unhandled + bad
            if done % 400 < count:
                _tell(f"{results.name}: {done} of {len(commands)} in {time.monotonic() - begun:.0f} s", status)
    took = time.monotonic() - begun
    _tell(f"{results.name}: finished, {done} answers in {took:.0f} s, {unhandled} unhandled exceptions", status)
    return 0


_PART = 8
"""Commands that a worker is given at once."""


def _tell(line: str, status: Path | None) -> None:
    line = f"{time.strftime('%H:%M:%S')} {line}"
    print(line, flush=True)
    if status is not None:
        with status.open("a") as file:
            file.write(f"{line}\n")


def _chosen(net: Path, results: Path, options: argparse.Namespace) -> Iterator[Command]:
    """The commands that are asked for, in the order of the list."""
    wanted = set(Path(options.ids).read_text().split()) if options.ids else None
    for line in (net / "argv.jsonl").read_text().splitlines():
        read = json.loads(line)
        command = Command(read["id"], tuple(read["argv"]))
        if wanted is not None and command.id not in wanted:
            continue
        if not re.search(options.only, command.id):
            continue
        if options.resume and _file(results, command.id).exists():
            continue
        yield command


def _file(results: Path, name: str) -> Path:
    return results / f"{name}.txt"


def _named(text: str) -> Any:
    """What MODULE:NAME stands for."""
    module, _, name = text.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def _enter_namespaces(nice: int) -> None:
    """A network and a mount namespace of the worker's own, with an empty /run. They go when the worker ends."""
    os.nice(nice)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS | _NEWNET) or libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None):
        raise OSError(ctypes.get_errno(), "no namespaces for a worker: record as root")
    # Copies of other people's namespaces would live as long as the worker.
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith("/run/netns/"):
            libc.umount2(point.encode(), _MNT_DETACH)
    if libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755"):
        raise OSError(ctypes.get_errno(), "cannot mount an empty /run")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _out_of_patience)


def _out_of_patience(*_: object) -> NoReturn:
    raise TimeoutError(f"no answer in {PATIENCE} s")


def _predictable_secrets() -> None:
    """Make names and numbers the same every time: they come from the command's id."""
    patched: Mapping[str, Callable[..., object]] = {
        "randbits": _source.getrandbits,
        "randbelow": _source.randrange,
        "choice": _source.choice,
        "token_bytes": lambda size=32: _source.randbytes(size),
        "token_hex": lambda size=32: _source.randbytes(size).hex(),
    }
    for name, function in patched.items():
        setattr(secrets, name, function)


def _record_some(commands: Sequence[Command], entry: str, results: Path) -> tuple[int, int]:
    """How many were recorded, and how many of them raised what nobody caught."""
    main, unhandled = _named(entry), 0
    places = _places(entry)
    for command in commands:
        answer = Answer("none", "", "")
        measured = command.argv[:1] == ("trace",) and "--expect" not in command.argv
        for attempt in range(ATTEMPTS):
            answer = _ask(main, command, attempt)
            if not measured or answer.status != "1":
                break
        unhandled += answer.status.startswith("raised")
        _write(_file(results, command.id), _settled(_plain(str(answer), places)))
    return len(commands), unhandled


def _ask(main: Callable[[Sequence[str]], int], command: Command, attempt: int) -> Answer:
    """Run one command in this process."""
    _source.seed(f"{command.id} {attempt}")
    random.seed(command.id)
    held = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(one, encoding="utf-8", write_through=True) for one in held)
    status = "none"
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = str(main(list(command.argv)))
    except SystemExit as end:
        status = str(end.code or 0)
    except Exception as error:
        status = f"raised {type(error).__name__}: {error}"
        last = traceback.extract_tb(error.__traceback__)[-1]
        err.write(f"{last.name}: {last.line}\n")
    finally:
        signal.alarm(0)
    return Answer(status, *(one.getvalue().decode() for one in held))


def _places(entry: str) -> tuple[tuple[str, str], ...]:
    """Directories that are no part of an answer, the longest first."""
    file = importlib.import_module(entry.partition(":")[0].partition(".")[0]).__file__
    package = str(Path(file).resolve().parent) if file else "/nowhere"
    found = ((package, "PACKAGE"), (str(Path(package).parent), "CHECKOUT"), (sys.executable, "PYTHON"))
    return (*found, (str(Path.cwd()), "NET"))


def _plain(text: str, places: Iterable[tuple[str, str]]) -> str:
    """Without what is another one every time: the lab's id, names of temporary files, places of this machine."""
    for place, word in places:
        text = text.replace(place, word)
    text = re.sub(r"\blab[0-9a-f]{6}\b", "LAB", text)
    return re.sub(r"/tmp/[\w.-]+", "/tmp/SOME", text)


def _settled(text: str) -> str:
    """A trace whose flows may go several ways, without the way that was taken this time.

    A hash, a random backend or the first answer to ARP decides. The record says itself that it was an expected one.
    """
    head, found, rest = text.partition("\n--- stdout\n")
    out, between, err = rest.partition("\n--- stderr\n")
    if not found or '"unpredicted"' not in out:
        return text
    try:
        read = json.loads(out)
    except ValueError:
        return text
    changed = False
    for flow in read["flows"] if isinstance(read, dict) and isinstance(read.get("flows"), list) else ():
        if isinstance(flow, dict) and len(flow.get("expected", ())) > 1 and flow.get("unpredicted") is None:
            hidden = {key: _ONE_OF_THEM for key in _OBSERVED if key in flow}
            changed = changed or any(flow[key] != value for key, value in hidden.items())
            flow.update(hidden)
    if not changed:
        return text
    return f"{head}{found}{json.dumps(read, indent=2, ensure_ascii=False)}\n{between}{err}"


# --- compare ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rename that is accepted: what is written in the base, and what it has become."""

    line: str
    where: re.Pattern[str]
    pattern: re.Pattern[str]
    replacement: str

    @classmethod
    def parse(cls, line: str) -> Rule:
        """From `REGEX -> REPLACEMENT`, or `in ID-REGEX: REGEX -> REPLACEMENT`. Blanks count. Raises ValueError.

        Both are Python's: `^` and `$` are a line's ends, `\\n` is a new line, `\\1` is a group.
        """
        match = re.fullmatch(r"(?:in (?P<where>\S+): )?(?P<pattern>.+?) -> ?(?P<replacement>.*)", line)
        if match is None:
            raise ValueError(f"{line!r} is not REGEX -> REPLACEMENT")
        where, pattern = re.compile(match["where"] or ""), re.compile(match["pattern"], re.MULTILINE)
        return cls(line, where, pattern, match["replacement"])


Hunk = tuple[tuple[str, ...], tuple[str, ...]]
"""Lines that are gone, and lines that have come."""


@dataclass
class Kind:
    """Differences that are alike but for names and numbers."""

    files: int = 0
    hunks: int = 0
    by_verb: Counter[str] = field(default_factory=Counter)
    example: tuple[str, Hunk] = ("", ((), ()))


@dataclass(frozen=True)
class Compared:
    """What became of one answer: `same`, `same by rules`, `same without rules`, `different`, `missing` or `new`."""

    id: str
    verdict: str
    hunks: tuple[Hunk, ...] = ()
    used: tuple[int, ...] = ()


_rules: list[Rule] = []


def compare(options: argparse.Namespace) -> int:
    """Exit 0: nothing differs but by the accepted renames; 1: something does."""
    base, new = Path(options.base), Path(options.new)
    if options.accept:
        lines = Path(options.accept).read_text().splitlines()
        _rules.extend(Rule.parse(line) for line in lines if line.strip() and not line.startswith("#"))
    every = _ids(new) if options.present else (*_ids(base), *_ids(new))
    ids = sorted({one for one in every if re.search(options.only, one)})
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("fork")) as pool:
        parts = [ids[at : at + 64] for at in range(0, len(ids), 64)]
        works = [pool.submit(_compare_some, base, new, part, unordered=options.unordered) for part in parts]
        found = [one for work in works for one in work.result()]
    kinds = _kinds(found)
    _print_kinds(kinds, options.kinds)
    _print_table(found)
    for number, rule in enumerate(_rules):
        print(f"{sum(number in one.used for one in found):6} answers changed by the rule  {rule.line}")
    different = [one for one in found if not one.verdict.startswith("same")]
    if options.ids:
        Path(options.ids).write_text("".join(f"{one.id}\n" for one in different))
    print(f"{len(found) - len(different)} same, {len(different)} different, in {len(kinds)} kinds of difference")
    return 1 if different else 0


def _ids(results: Path) -> Iterator[str]:
    for path in results.rglob("*.txt"):
        yield str(path.relative_to(results)).removesuffix(".txt")


def _compare_some(base: Path, new: Path, ids: Sequence[str], *, unordered: bool) -> list[Compared]:
    return [_compare_one(base, new, one, unordered=unordered) for one in ids]


def _compare_one(base: Path, new: Path, name: str, *, unordered: bool) -> Compared:
    before, after = _file(base, name), _file(new, name)
    if not after.exists():
        return Compared(name, "missing")
    if not before.exists():
        return Compared(name, "new")
    told, tells = _settled(before.read_text()), _settled(after.read_text())
    renamed, used = told, []
    for number, rule in enumerate(_rules):
        if rule.where.search(name):
            changed = rule.pattern.sub(rule.replacement, renamed)
            if changed != renamed:
                used.append(number)
                renamed = changed
    if unordered:
        told, tells, renamed = map(_ordered, (told, tells, renamed))
    if renamed == tells:
        return Compared(name, "same by rules" if used else "same", used=tuple(used))
    if told == tells:
        return Compared(name, "same without rules")
    return Compared(name, "different", tuple(_hunks(renamed.splitlines(), tells.splitlines())), tuple(used))


def _ordered(text: str) -> str:
    """The same with the keys of JSON in the order of the alphabet."""
    head, found, rest = text.partition("\n--- stdout\n")
    out, between, err = rest.partition("\n--- stderr\n")
    try:
        out = json.dumps(json.loads(out), indent=2, ensure_ascii=False, sort_keys=True)
    except ValueError:
        return text
    return f"{head}{found}{out}\n{between}{err}"


def _hunks(before: Sequence[str], after: Sequence[str]) -> Iterator[Hunk]:
    """What differs, of the part between a common beginning and a common end."""
    start, shorter = 0, min(len(before), len(after))
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    old, young = before[start : len(before) - end], after[start : len(after) - end]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, young).get_opcodes():
        if tag != "equal":
            yield tuple(old[i1:i2]), tuple(young[j1:j2])


def _signature(hunk: Hunk) -> Hunk:
    """The hunk without names and numbers; of lines that were only changed, the words that were."""
    if len(hunk[0]) != len(hunk[1]):
        gone, come = (tuple(dict.fromkeys(map(_nameless, lines))) for lines in hunk)
        return gone, come
    changes = dict.fromkeys(change for old, new in zip(*hunk, strict=True) for change in _changes(old, new))
    return tuple(old for old, _ in changes), tuple(new for _, new in changes)


def _changes(old: str, new: str) -> Iterator[tuple[str, str]]:
    """The words that differ, each with the word before it."""
    before, after = old.split(), new.split()
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            start = max(0, i1 - 1)
            yield _nameless(" ".join(before[start:i2])), _nameless(" ".join(after[max(0, j1 - 1) : j2]))


def _nameless(line: str) -> str:
    line = re.sub(r"[\w.:/-]*\d[\w.:/%-]*", "#", line.strip())
    return re.sub(r"#(,? ?#)+", "#", line)


def _kinds(found: Iterable[Compared]) -> Mapping[Hunk, Kind]:
    kinds: dict[Hunk, Kind] = {}
    for one in found:
        hunks = one.hunks or (((f"answer is {one.verdict}",), ()),) * (not one.verdict.startswith("same"))
        seen = set()
        for hunk in hunks:
            signature = _signature(hunk)
            kind = kinds.setdefault(signature, Kind(example=(one.id, hunk)))
            kind.hunks += 1
            if signature not in seen:
                seen.add(signature)
                kind.files += 1
                kind.by_verb[one.id.partition("/")[0]] += 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1].files))


_SHOWN = 12
"""Lines of an example's each side."""


def _print_kinds(kinds: Mapping[Hunk, Kind], most: int) -> None:
    for number, kind in enumerate(kinds.values()):
        if number == most:
            print(f"… and {len(kinds) - most} kinds more (--kinds)\n")
            break
        where = ", ".join(f"{verb} {count}" for verb, count in kind.by_verb.most_common())
        name, hunk = kind.example
        print(f"== kind {number + 1}: {kind.files} answers ({where}), {kind.hunks} places; e.g. {name}")
        for sign, lines in zip("-+", hunk, strict=True):
            for line in lines[:_SHOWN]:
                print(f"  {sign} {line}")
            if len(lines) > _SHOWN:
                print(f"  {sign} … {len(lines) - _SHOWN} lines more")
        print()


_VERDICTS = ("same", "same by rules", "same without rules", "different", "missing", "new")


def _print_table(found: Iterable[Compared]) -> None:
    """How many answers of each verb are the same."""
    table: dict[str, Counter[str]] = {}
    for one in found:
        table.setdefault(one.id.partition("/")[0], Counter())[one.verdict] += 1
    print(f"{'':14}", *(f"{verdict:>18}" for verdict in _VERDICTS))
    for verb, counts in table.items():
        print(f"{verb:14}", *(f"{counts[verdict]:18}" for verdict in _VERDICTS))


# --- command line -----------------------------------------------------------------------------------------------------


def _complain(words: str) -> int:
    print(f"answers: {words}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    made = verbs.add_parser("list", help="write the list of command lines, once")
    made.add_argument("net", help="the directory for argv.jsonl, settings/ and inputs/")
    made.add_argument("--topologies", default="topologies", metavar="DIR", help="the shipped topologies")
    made.add_argument("--load", default="niclab.check:load", metavar="MODULE:NAME", help="loads a topology by name")
    made.add_argument("--cases", default="niclab.cli.parity", metavar="MODULE", help="the parity cases")
    made.add_argument("--mistakes", default="tests/golden/topology-errors", metavar="DIR", help="wrong topologies")
    made.add_argument("--trace-versions", default=",".join(VERSIONS), metavar="X.Y,…", help="versions that are traced")
    made.set_defaults(run=list_commands)

    asked = verbs.add_parser("record", help="run the commands, write one file for each")
    asked.add_argument("net", help="the directory with argv.jsonl; commands run in it")
    asked.add_argument("results", help="the directory for the answers")
    asked.add_argument("--entry", default="niclab.cli:main", metavar="MODULE:NAME", help="the command's main(argv)")
    asked.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    asked.add_argument("--nice", type=int, default=5, help="how much they yield to others (default: 5)")
    asked.add_argument("--only", default="", metavar="REGEX", help="only ids with this in them")
    asked.add_argument("--ids", metavar="FILE", help="only the ids of this file, as `compare --ids` writes it")
    asked.add_argument("--resume", action="store_true", help="leave out what has an answer already")
    asked.add_argument("--status", metavar="FILE", help="add lines of progress to this file")
    asked.add_argument("--hash-seed", default=ENVIRONMENT["PYTHONHASHSEED"], help="Python's, for the order of sets")
    asked.set_defaults(run=record)

    compared = verbs.add_parser("compare", help="what differs between two recordings")
    compared.add_argument("base")
    compared.add_argument("new")
    compared.add_argument("--accept", metavar="FILE", help="accepted renames, a line each: see Rule.parse")
    compared.add_argument("--only", default="", metavar="REGEX", help="only ids with this in them")
    compared.add_argument("--present", action="store_true", help="only what the new recording has")
    compared.add_argument("--unordered", action="store_true", help="the order of keys in JSON does not matter")
    compared.add_argument("--kinds", type=int, default=50, help="how many kinds to show (default: 50)")
    compared.add_argument("--ids", metavar="FILE", help="write the ids that differ to this file")
    compared.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    compared.set_defaults(run=compare)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
