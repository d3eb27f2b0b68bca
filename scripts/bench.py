"""What the lab costs: its substrate beside `ip -batch` doing the same, flows, and a deployment. One run, one table.

Every round measures each way once, in turn, so that whatever else the machine does hits all of them alike. Between two
measurements the kernel finishes taking namespaces down: it does so in the background, holding the lock set-up needs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import bench_cilium
from niclab.check import load, loads
from niclab.errors import LabError
from niclab.host import ledgers, messages, namespace, netlink, netns, syscalls
from niclab.host.process import environment
from niclab.host.userns import enter
from niclab.kernel.plan import Plan
from niclab.lab import Lab
from niclab.net.operation import AddCable, AddNamespace, Operation, SetSysctl
from niclab.net.operation import lines as lines_of
from niclab.settings import LAB_BASELINE, Settings
from niclab.topology.model import Topology

CLEANUP_DEADLINE = 60.0
OF_IP_BATCH = 0.6
"""What set-up may take of the time that `ip -batch` takes in the same run."""
_RTM_DELLINK, _RTMGRP_LINK = 17, 1


@dataclass
class Series:
    """One thing measured: seconds a round, shown in `scale` of a `unit`; the median must not exceed `bar`."""

    name: str
    unit: str
    scale: float
    bar: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [value * self.scale for value in self.seconds]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        return None if self.bar is None else self.median <= self.bar


@contextmanager
def timed(series: Series) -> Iterator[None]:
    gc.collect()  # or a round pays for the litter of the one before
    start = time.perf_counter()
    yield
    series.seconds.append(time.perf_counter() - start)


def many_nodes(count: int) -> Topology:
    """`count` nodes with two physical NICs, an address on each and a default route."""
    nodes = [
        f"""
  node{n}:
    nics:
      eth0: {{fabric: f0, addresses: [10.0.{n >> 8}.{n & 255}/16]}}
      eth1: {{fabric: f1, addresses: [10.1.{n >> 8}.{n & 255}/16]}}
    routes: [default via 10.0.255.254 dev eth0]"""
        for n in range(1, count + 1)
    ]
    return loads("name: bench\nfabrics: {f0: {}, f1: {}}\nnodes:" + "".join(nodes), "bench")


@dataclass
class Numbered:
    """The next interface of a namespace has this number."""

    number: int
    fd: int

    def index(self, name: str) -> int:
        raise KeyError(name)

    def new_index(self, _: str) -> int:
        return self.number


class Cleanup:
    """Waits until the kernel has taken down every namespace let go so far.

    It does that in batches, one after the other. A veth pair reaches from a namespace of our own into a sentinel; when
    the sentinel is taken down, our end of the pair goes. The first sentinel may be in the same batch as the others, and
    go before the rest of them; when the second one goes, the batch of the first is over.
    """

    def __init__(self) -> None:
        with syscalls.home_restored():
            syscalls.unshare_network()
            self._channel = netlink.Channel()
            self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._events.bind((0, _RTMGRP_LINK))
        self._index = 1

    def wait(self) -> None:
        """Raises LabError after CLEANUP_DEADLINE seconds."""
        deadline = time.monotonic() + CLEANUP_DEADLINE
        for _ in range(2):
            index = self._sentinel()
            while not self._gone(index, deadline - time.monotonic()):
                pass

    def _sentinel(self) -> int:
        self._index += 1
        with syscalls.home_restored():
            syscalls.unshare_network()
            with open("/proc/thread-self/ns/net") as handle:  # noqa: PTH123
                cable = AddCable("", f"s{self._index}", "02:00:00:00:00:01", "", "peer", "02:00:00:00:00:02")
                ours, theirs = Numbered(self._index, -1), Numbered(2, handle.fileno())
                self._channel.send([messages.operation_message(cable, ours, theirs)])
        return self._index

    def _gone(self, index: int, seconds: float) -> bool:
        if not select.select([self._events], [], [], max(0.0, seconds))[0]:
            raise LabError(f"the kernel did not take its namespaces down within {CLEANUP_DEADLINE:g} s")
        data = self._events.recv(1 << 16)
        kind, changed = struct.unpack_from("=H", data, 4)[0], struct.unpack_from("=i", data, 20)[0]
        return bool(kind == _RTM_DELLINK and changed == index)


@contextmanager
def owned() -> Iterator[ledgers.Ledger]:
    ledger = ledgers.Ledger.open_new()
    try:
        yield ledger
    finally:
        ledger.release()


def niclab(plan: Plan, up: Series, down: Series) -> None:
    """The lab's own way: the plan through the netns substrate."""
    with contextlib.ExitStack() as undo:
        with timed(up):
            ledger = undo.enter_context(owned())
            substrate = netns.NetnsSubstrate(ledger)
            undo.callback(substrate.close)
            substrate.apply(plan.operations)
        with timed(down):
            undo.close()


def ip_batch(plan: Plan, up: Series, down: Series) -> None:
    """`ip -batch` at its best: one process makes all namespaces, then one for each; sysctls written directly."""
    with owned() as ledger:
        names = _announced(ledger, plan.operations)
        with timed(up):
            _ip(["-batch", "-"], [f"netns add {name}" for name in names.values()])
            _write_sysctls(plan.operations, names)
            for role, lines in _lines(plan.operations, names).items():
                _ip(["-n", names[role], "-batch", "-"], lines)
        with timed(down):
            _ip(["-batch", "-"], [f"netns del {name}" for name in names.values()])


def ip_each(plan: Plan, up: Series, down: Series) -> None:
    """One `ip` process for each operation."""
    with owned() as ledger:
        names = _announced(ledger, plan.operations)
        with timed(up):
            for name in names.values():
                _ip(["netns", "add", name], [])
            _write_sysctls(plan.operations, names)
            for role, lines in _lines(plan.operations, names).items():
                for line in lines:
                    _ip(["-n", names[role], *line.split()], [])
        with timed(down):
            for name in names.values():
                _ip(["netns", "del", name], [])


def _announced(ledger: ledgers.Ledger, operations: Sequence[Operation]) -> dict[str, str]:
    """Role → name of the namespaces that `ip` is going to make; in the ledger, should the benchmark be killed."""
    ledger.named_directory()
    names = {one.namespace: f"{ledger.id}-{one.namespace}" for one in operations if isinstance(one, AddNamespace)}
    for role, name in names.items():
        ledger.write("making namespace", role=role, name=name)
    return names


def _ip(arguments: list[str], lines: list[str]) -> None:
    done = subprocess.run(
        ["ip", *arguments], input="\n".join(lines), capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)} failed", why=done.stderr.strip())


def _lines(operations: Sequence[Operation], names: dict[str, str]) -> dict[str, list[str]]:
    """The plan's own `ip` lines by namespace, with the one queue a link that niclab asks for as well."""
    found: dict[str, list[str]] = {}
    for operation in operations:
        if isinstance(operation, SetSysctl):
            continue
        prefix = f"ip -n {operation.namespace} "
        for line in lines_of(operation):
            if line.startswith(prefix):
                words = line.removeprefix(prefix)
                if " type " in words:
                    before = " address " if " address " in words else " type "
                    words = words.replace(before, f" numtxqueues 1 numrxqueues 1{before}")
                if isinstance(operation, AddCable):
                    words = words.replace(
                        f" netns {operation.peer_namespace}", f" netns {names[operation.peer_namespace]}"
                    )
                found.setdefault(operation.namespace, []).append(words)
    return found


def _write_sysctls(operations: Sequence[Operation], names: dict[str, str]) -> None:
    with syscalls.home_restored():
        for operation in operations:
            if isinstance(operation, AddNamespace) and operation.sysctls:
                with (namespace.NAMED / names[operation.namespace]).open() as handle:
                    syscalls.set_network(handle.fileno())
                for key, value in operation.sysctls.items():
                    with open("/proc/sys/" + key.replace(".", "/"), "w") as file:  # noqa: PTH123
                        file.write(value)


def deployment(series: Series) -> None:
    topology = load("two-nic")
    with contextlib.ExitStack() as undo, timed(series):
        undo.enter_context(Lab.deploy(topology))


def flows(carried: Series, lost: Series, mixed: Series) -> None:
    """100 flows of 5 probes at once, probes to verdicts. ext1 cannot answer what is masqueraded as eth0's address."""
    good, bad = "pod1 -> pod2", "pod1 -> ext1"
    settings = LAB_BASELINE.merged(Settings.of(devices="eth0"))
    with Lab.deploy("two-nic", settings, cilium_version="1.18") as lab:
        for series, sent in ((carried, [good] * 100), (lost, [bad] * 100), (mixed, [good, bad] * 50)):
            with timed(series):
                verdicts = [result.verdict for result in lab.send_all(sent)]
            lab.captures.clear()
            wanted = ["carried" if flow == good else "lost" for flow in sent]
            if verdicts != wanted:
                wrong = {verdict for verdict, want in zip(verdicts, wanted, strict=True) if verdict != want}
                raise LabError(f"{series.name}: some flows are {', '.join(sorted(wrong))}")


HUNDRED = """\
name: hundred
fabrics: {f0: , f1: }
nodes:
  node[1-100]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: f1, addresses: "10.0.1.{n}/24"}
    routes: [default via 10.0.0.254 dev eth0]
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals:
  ext0: {nics: {eth0: {fabric: f0, addresses: 10.0.0.200/24}}, routes: ["10.244.[1-100].0/24 via 10.0.0.[1-100]"]}
"""


def prediction(series: Series) -> None:
    """`niclab predict` as a person runs it: the whole process, every pair of 100 nodes, three values of `devices`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hundred.yaml")
        path.write_text(HUNDRED)
        command = [sys.executable, "-m", "niclab.cli", "predict", str(path)]
        for devices in ("", "eth0", "eth0,eth1"):
            command += ["--devices", devices]
        with timed(series):
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode or "9899 like it" not in done.stdout:
        raise LabError(f"niclab predict ends with status {done.returncode}", why=done.stderr)


def measure(nodes: int, rounds: int) -> dict[str, Series]:
    """Every way, `rounds` times, in turn."""
    node = 1000 / nodes
    few = max(2, nodes // 20)
    found = {
        "up": Series(f"set-up, {nodes} nodes", "ms/node", node),
        "down": Series("tear-down", "ms/node", node, bar=1.0),
        "batch up": Series("set-up by ip -batch", "ms/node", node),
        "batch down": Series("tear-down by ip -batch", "ms/node", node),
        "each up": Series(f"set-up by one ip each, {few} nodes", "ms/node", 1000 / few),
        "each down": Series("tear-down by one ip each", "ms/node", 1000 / few),
        "deploy": Series("deploy two-nic, built-in datapath", "ms", 1000),
        "carried": Series("100 flows, all carried", "s", 1, bar=0.5),
        "lost": Series("100 flows, all lost", "s", 1, bar=0.5),
        "mixed": Series("100 flows, half of them lost", "s", 1, bar=0.5),
        "predict": Series("niclab predict, 100 nodes, 3 settings", "s", 1, bar=1.0),
    }
    cleanup = Cleanup()
    plan, small = Plan(many_nodes(nodes)), Plan(many_nodes(few))
    steps: list[Callable[[], None]] = [
        lambda: niclab(plan, found["up"], found["down"]),
        lambda: ip_batch(plan, found["batch up"], found["batch down"]),
        lambda: ip_each(small, found["each up"], found["each down"]),
        lambda: deployment(found["deploy"]),
        lambda: flows(found["carried"], found["lost"], found["mixed"]),
        lambda: prediction(found["predict"]),
    ]
    for plans in (plan, small):
        assert plans.operations  # planned now, and not on the first one's clock
    for number in range(rounds + 1):
        for step in steps:
            cleanup.wait()
            step()
        if number == 0:  # the first round pays for imports and for the kernel's caches
            for series in found.values():
                series.seconds.clear()
    cleanup.wait()
    found["up"].bar = OF_IP_BATCH * found["batch up"].median
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="nodes to set up (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--datapath", choices=("builtin", "cilium"), default="builtin", help="cilium: real agents")
    parser.add_argument("--cilium", action="append", metavar="V", help="a bundle (default: every one at hand)")
    parser.add_argument("--control-plane", choices=("kvstore", "kubernetes"), default="kvstore")
    arguments = parser.parse_args()
    if arguments.datapath == "cilium":
        return bench_cilium.run(
            arguments.cilium, arguments.control_plane, rounds=arguments.rounds, as_json=arguments.json
        )
    if not (1 <= arguments.nodes <= 1000 and arguments.rounds >= 1):
        parser.error("1 to 1000 nodes (a bridge has no more ports), 1 round or more")
    try:
        enter()
        found = measure(arguments.nodes, arguments.rounds)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({name: _summary(series) for name, series in found.items()}, indent=1))
    else:
        _table(list(found.values()))
    return 1 if any(series.met is False for series in found.values()) else 0


def _summary(series: Series) -> dict[str, object]:
    return {**asdict(series), "median": series.median, "min": min(series.values), "met": series.met}


def _table(found: list[Series]) -> None:
    print(f"{'':<42}{'median':>9}{'min':>9}  {'':<8}{'bar':>7}")
    for series in found:
        bar = "" if series.bar is None else f"{series.bar:7.2f}  {'met' if series.met else 'NOT MET'}"
        print(f"{series.name:<42}{series.median:9.2f}{min(series.values):9.2f}  {series.unit:<8}{bar}")
    faster = found[2].median / found[0].median
    print(f"\nset-up is {faster:.1f} times as fast as ip -batch ({OF_IP_BATCH:g} of whose time is its bar)")


if __name__ == "__main__":
    sys.exit(main())
