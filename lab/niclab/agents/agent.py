"""One real agent on one node: its sandbox, directories and configuration, its start, and its end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from niclab.agents import compiler
from niclab.agents.bundle import Bundle
from niclab.agents.client import Client
from niclab.agents.reported import attached, exited, last_words, next_hops, reported
from niclab.cilium.reported import NodeReport
from niclab.errors import LabError, NoAnswer
from niclab.host import daemons, syscalls
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.process import UNKNOWN, environment, run
from niclab.host.waiting import patient, try_until, wait_until
from niclab.net.route import Address, Network, ip_address

_SANDBOX_LOG = "sandbox.log"
_SANDBOX_READY = ".sandbox"
"""Appears in the run directory when the sandbox stands."""
READY_DEADLINE = 90.0
"""Seconds for an agent to answer `Ok`; compiling its programs takes a few. An agent of 1.20 with address pools that
loses a race for its CiliumNode looks again only after a minute (pkg/ipam/multipool_manager.go refreshPoolInterval)."""
DBG_TIMEOUT = 20.0
SANDBOX_DEADLINE = 10.0
LINK_PATIENCE = 5.0
API_TIMEOUT = 5.0
"""Seconds; the agent answers in milliseconds or is not ready."""
_SHELL_END = b"<<end>>\n"
"""What the agent's shell writes behind an answer."""
CNI_TIMEOUT = 100.0
"""Seconds for a pod to be plugged. The plugin itself gives up after 90 (pkg/client), with words of its own."""
POD_PATIENCE = 5.0
"""Seconds for an agent to hear of a new pod; it needs milliseconds, but may be asked before them."""
_CNI = json.dumps({"cniVersion": "0.3.1", "name": "cilium", "type": "cilium-cni", "enable-debug": False})
_UNHURRIED = {"GOGC": "400"}
"""A starting agent spends a fifth of its time collecting garbage (Go's runtime); it may keep some."""
_IP = (("addr",), ("route", "show", "table", "all"), ("-6", "route", "show", "table", "all"), ("rule",), ("-6", "rule"))
_NO_ANSWER = "the agent did not answer\n"
_NOT_IN_AGENTS = ("tests", "complexity-tests", "Documentation")


class _UnheardOf(LabError):
    """The agent has not heard of the pod yet."""


class _Late(LabError):
    """The plugin has given up: the pod's program is not compiled and loaded yet."""


@dataclass
class Agent:
    """A node's agent. `control_plane`: the environment variables that its control plane asks for."""

    node: str
    bundle: Bundle
    ledger: Ledger
    control_plane: Mapping[str, str]
    holder: Daemon = field(init=False)
    """Holds the node's sandbox open, over every restart of the agent."""
    daemon: Daemon | None = None
    exited: str | None = None
    """Its last words, when it refused to run or died."""
    starts: int = 0

    @property
    def directory(self) -> Path:
        """Its run directory, configuration, library directory and logs."""
        return self.ledger.path / "nodes" / self.node

    @property
    def rundir(self) -> Path:
        """What is /run/cilium for the agent."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        return self.directory / f"agent-{self.starts}.log"

    @property
    def extra_environment(self) -> dict[str, str]:
        """What its environment has over this process's; its own tools are the first on PATH."""
        path = f"{self.directory / 'bin'}:{environment()['PATH']}"
        return {**_UNHURRIED, **self.control_plane, "PATH": path}

    def prepare(self, netns: Path, cgroup: Path, *, binds: Sequence[str] = (), holds: Sequence[int] = ()) -> None:
        """The node's directories, cgroup and sandbox; the agent is not started. Raises LabError.

        `holds`: descriptors that stay open as long as the sandbox (`niclab.agents.bundle.held`).
        """
        for name in ("run", "config", "artifacts"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.ledger.make_cgroup(cgroup)
        kept = compiler.directory()
        compiler.provide(self.directory / "bin", self.bundle, kept)
        if self.bundle.kind == "directory":
            # The agent writes headers among the sources when it starts: each node has its own copy.
            ignored = shutil.ignore_patterns(*_NOT_IN_AGENTS)
            shutil.copytree(self.bundle.bpf, self.rundir / "lib" / "bpf", ignore=ignored, dirs_exist_ok=True)
        shown = (str(netns.parent), str(self.directory), *binds, *([str(kept)] if kept else ()))
        self.holder = daemons.start(
            self.ledger,
            f"{daemons.SANDBOX}{self.node}",
            syscalls.command(self._sandbox(netns, cgroup, shown), purpose=f"make the sandbox of node {self.node}"),
            log=self.directory / _SANDBOX_LOG,
            pass_fds=holds,
        )

    def _sandbox(self, netns: Path, cgroup: Path, shown: Sequence[str]) -> list[syscalls.Step]:
        """The namespaces and mounts that an agent on the node lives in, held open by a process of its own.

        What is in it sees the host's files, or an image's (`root`, never written to: what a program changes goes to an
        overlay's upper directory), with private mounts on top; `shown` under the same names. What an agent would write
        for the whole machine is out of its reach: `/proc/sys` is read-only but for `net` (the node's own), `/run` is
        the node's own, and so are the only bpffs and the cgroup it can see. Nothing of it is undone, for nothing needs
        to be: mounts and names end with the last process in it.
        """
        root = self.bundle.root
        return [
            ("network", str(netns)),
            ("own_mounts",),
            ("hostname", self.node),
            # Cilium's tools take the first bpffs in the list of mounts for theirs: the host's must not be in it.
            ("forget", "bpf"),
            ("open", str(self.rundir), str(cgroup), *shown),
            *([("root", str(root), str(self.directory / "layer"))] if root else []),
            # A fresh sysfs shows the node's network devices; the cgroup mounts of the host vanish under it.
            ("fresh", "sysfs", "/sys"),
            ("fresh", "bpf", "/sys/fs/bpf"),
            ("fresh", "tmpfs", "/run"),
            *(("show", path, path) for path in shown),
            ("show", str(self.rundir), "/run/cilium"),
            ("show", str(cgroup), "/run/cilium/cgroupv2"),
            # All of it but `net` belongs to the machine.
            ("read_only", "/proc/sys", "/proc/sys/net"),
            ("file", f"/run/cilium/{_SANDBOX_READY}", ""),
        ]

    def adopt(self) -> bool:
        """Take over what runs of a kept lab; False when the sandbox has ended."""
        holder = daemons.adopt(self.ledger, f"{daemons.SANDBOX}{self.node}", log=self.directory / _SANDBOX_LOG)
        if holder is None:
            return False
        self.holder = holder
        self.starts = len(list(self.directory.glob("agent-*.log")))
        if self.exited is None:
            self.daemon = daemons.adopt(self.ledger, self._name, log=self.log)
            if self.daemon is None:
                self.exited = f"died: {self._words() or 'it reported nothing'}"
        return True

    @property
    def _name(self) -> str:
        """How the ledger calls it."""
        return f"agent on {self.node}"

    def _words(self) -> str | None:
        return last_words(self.log.read_text(errors="replace"))

    def command(self, program: Sequence[str]) -> list[str]:
        """The argument list that runs a program in the node's sandbox; it can be pasted."""
        return [*daemons.entrance(self.holder.pid), *program]

    def wait_for_link(self, name: str) -> bool:
        """Whether the node has this link, at most LINK_PATIENCE seconds from now."""
        link = Path(f"/proc/{self.holder.pid}/root/sys/class/net/{name}")
        return wait_until(link.exists, LINK_PATIENCE)

    def died(self) -> bool:
        """Has it ended by itself since it was ready? Then `exited` has its last words."""
        if self.daemon is None or self.daemon.exit_status is None or self.exited is not None:
            return False
        status = self.daemon.exit_status
        how = "" if status == UNKNOWN else f" with status {status}"
        self.exited = f"died{how}: {self._words() or 'it said nothing'}"
        return True

    def start(self, values: Mapping[str, str]) -> None:
        """Start it with these ConfigMap keys, in place of the one that runs."""
        self.stop()
        self.starts += 1
        self.exited = None
        config = self.directory / "config"
        shutil.rmtree(config, ignore_errors=True)
        config.mkdir(parents=True)
        for key, value in values.items():
            (config / key).write_text(value)
        program = [str(self.bundle.required("cilium-agent")), f"--config-dir={config}"]
        self.daemon = daemons.start(
            self.ledger,
            self._name,
            self.command(program),
            log=self.log,
            extra_environment=self.extra_environment,
            outright=True,
        )

    def stop(self) -> None:
        """End the agent; the node's sandbox stays. An agent takes over its own state when it starts again."""
        if self.daemon is not None:
            # With the compilers it has started: nobody waits for what they would still be at for seconds.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.process.wait()
            self.daemon = None

    def close(self) -> None:
        """End the agent and its sandbox."""
        self.stop()
        self.holder.stop()

    def wait_for_sandbox(self) -> None:
        """Return when the sandbox stands. Raises LabError with the step that failed."""
        ready = self.rundir / _SANDBOX_READY
        wait_until(lambda: ready.exists() or self.holder.exit_status is not None, SANDBOX_DEADLINE)
        if not ready.exists():
            raise LabError(f"the sandbox of {self.node} does not stand", why=self.holder.tail(2) or "it said nothing")

    def wait(self, deadline: float = READY_DEADLINE) -> None:
        """Return when the agent says Ok, or has exited and `exited` has its last words. Raises LabError for neither."""
        daemon = self.daemon
        assert daemon is not None, "started"

        def settled() -> bool:
            if daemon.exit_status is not None:
                self.exited = self._words() or f"exited with status {daemon.exit_status} and said nothing"
                return True
            return bool(self.status().get("cilium", {}).get("state") == "Ok")

        if not wait_until(settled, deadline, every=0.05):
            raise LabError(
                f"the agent on {self.node} is not ready after {patient(deadline):g} s",
                why=daemon.tail(3) or "it said nothing",
                fix=f"its log: {self.log}",
            )

    @property
    def dbg(self) -> str:
        return str(self.bundle.required("cilium-dbg"))

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """The rows that `cilium-dbg ARGUMENTS -o json` or `ip -j ARGUMENTS` prints on the node; none when it fails."""
        with contextlib.suppress(LabError, ValueError):
            return json.loads(self._run(arguments)) or []
        return []

    def _run(self, program: Sequence[str]) -> str:
        return run(self.command(program), timeout=DBG_TIMEOUT, extra_environment=self.extra_environment)

    def collect(self, directory: Path) -> None:
        """Keep what there is to know of the node: its agent's logs and own words, its addresses, routes and rules."""
        directory.mkdir(parents=True, exist_ok=True)
        for log in sorted(self.directory.glob("*.log")):
            shutil.copy(log, directory / log.name)
        outputs = {
            "status.json": json.dumps(self.status(), indent=1),
            **{f"{name}.json": self.table(name) or _NO_ANSWER for name in ("devices", "node-addresses")},
            "status-verbose.txt": self._printed([self.dbg, "status", "--verbose"]),
            **{f"ip-{'-'.join(words)}.txt": self._printed(["ip", *words]) for words in _IP},
        }
        for name, text in outputs.items():
            (directory / name).write_text(text)

    def _printed(self, program: Sequence[str]) -> str:
        """What a program prints on the node; the error when it fails, for an empty file would be no evidence."""
        try:
            return self._run(program)
        except LabError as error:
            return f"{error}\n"

    def status(self) -> dict[str, Any]:
        """What `cilium-dbg status -o json` prints; {} while the agent does not answer yet."""
        status = self.get("healthz")
        return status if isinstance(status, dict) else {}

    def _connected(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(patient(API_TIMEOUT))
        connection.connect(str(self.rundir / name))
        return connection

    def _ask(self, method: str, resource: str) -> tuple[int, bytes]:
        """The agent's REST API (api/v1/openapi.yaml): what `cilium-dbg` asks, which costs a tenth of a second of CPU a
        time; a lab that waits for its agents asks dozens of times. Raises OSError."""
        with contextlib.closing(Client(lambda: self._connected("cilium.sock"), timeout=API_TIMEOUT)) as client:
            return client.ask(method, f"/v1/{resource}")

    def answer(self, resource: str) -> Any:
        """The JSON behind a resource of the agent's API, None for an error it answers with. Raises NoAnswer: silence is
        not an empty list."""
        with self._answering(f"answer GET /v1/{resource}"):
            status, body = self._ask("GET", resource)
            return json.loads(body) if status == 200 else None

    def get(self, resource: str) -> Any:
        """As `answer`; None without an answer."""
        with contextlib.suppress(NoAnswer):
            return self.answer(resource)
        return None

    def claim(self, address: Address) -> bool:
        """Take an address of the node's pods, so that no pod gets it; False when it is taken."""
        return self._done("POST", f"ipam/{address}?owner=lab&pool=default")

    def release(self, address: Address) -> bool:
        """Give an address back."""
        return self._done("DELETE", f"ipam/{address}?pool=default")

    def _done(self, method: str, resource: str) -> bool:
        with contextlib.suppress(OSError):
            return self._ask(method, resource)[0] == 200
        return False

    def answered_table(self, name: str) -> str:
        """A table of the agent's StateDB, as JSON objects one after the other: what the agent's shell (`cilium-dbg
        shell`) prints of it. Raises NoAnswer."""
        data = bytearray()
        with (
            self._answering(f"show its table {name}"),
            contextlib.closing(self._connected("shell.sock")) as connection,
        ):
            connection.sendall(f"db/show {name} --format=json\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while not data.endswith(_SHELL_END) and (part := connection.recv(65536)):
                data += part
        return data.removesuffix(_SHELL_END).decode(errors="replace")

    def table(self, name: str) -> str:
        """As `answered_table`; "" without an answer."""
        with contextlib.suppress(NoAnswer):
            return self.answered_table(name)
        return ""

    def reported(self) -> NodeReport:
        """What it reports now; its raw outputs are kept in `artifacts`. Raises NoAnswer."""
        if self.exited is not None:
            return exited(self.exited)
        status = self.answer("healthz")
        if not isinstance(status, dict):
            raise NoAnswer(f"the agent on {self.node} does not say how it is", why="GET /v1/healthz: an error")
        devices, addresses = self.answered_table("devices"), self.answered_table("node-addresses")
        raw = {"devices": devices, "node-addresses": addresses, "frontends": self.table("frontends")}
        for name, text in {"status": json.dumps(status, indent=1), **raw}.items():
            (self.directory / "artifacts" / f"{name}.json").write_text(text)
        # The node's bpffs, as the host sees it: through the sandbox's root.
        bpffs = Path(f"/proc/{self.holder.pid}/root/sys/fs/bpf")
        return reported(status, devices, addresses, raw["frontends"], attached(bpffs))

    def rib(self) -> dict[Network, frozenset[Address]]:
        """What the agent has accepted from its peers: prefix → next hops. What it originates itself is not in it.

        By `/bgp/routes` of its API, as `/bgp/peers` deprecated in 1.20, and still there.
        """
        found: dict[Network, frozenset[Address]] = {}
        for family in (4, 6):
            query = f"bgp/routes?table_type=loc-rib&afi=ipv{family}&safi=unicast"
            found |= next_hops(self.answer(query) or ())
        return found

    def heard(self) -> dict[Network, frozenset[Address]]:
        """What the agent's peers have told it: prefix → the next hops they gave."""
        found: dict[Network, frozenset[Address]] = {}
        for peer in self.states():
            query = f"bgp/routes?table_type=adj-rib-in&afi=ipv{peer.version}&safi=unicast&neighbor={peer}"
            for prefix, hops in next_hops(self.answer(query) or ()).items():
                found[prefix] = found.get(prefix, frozenset()) | hops
        return found

    def states(self) -> dict[Address, str]:
        """Peer → the state of its session, in FRR's spelling."""
        peers = self.answer("bgp/peers") or ()
        return {ip_address(one["peer-address"]): str(one.get("session-state", "")).capitalize() for one in peers}

    @contextlib.contextmanager
    def _answering(self, how: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            logged = (self.daemon.tail(3) if self.daemon else "") or "nothing"
            why = f"{error}; it last logged: {logged}"
            raise NoAnswer(f"the agent on {self.node} does not {how}", why=why) from None

    def plug(self, pod: str, netns: Path, extra: Mapping[str, str]) -> tuple[Address, ...]:
        """Plug a pod's namespace into the node as a kubelet does; `extra` names the pod to the plugin. Its addresses,
        IPv4 first.

        Raises LabError with the plugin's words. An agent that has not heard of the pod yet is asked again, as kubelets
        do with everything that fails.
        """
        variables = {
            "CNI_COMMAND": "ADD",
            # It must look real: from a short one the plugin makes interface names that the kernel refuses.
            "CNI_CONTAINERID": hashlib.sha256(f"{netns}/{pod}".encode()).hexdigest(),
            "CNI_NETNS": str(netns),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            **extra,
        }

        def ask() -> str:
            try:
                return self.run_cni(_CNI, variables)
            except LabError as error:
                # Of pools agents look the pod up first (pkg/ipam/metadata): `resource Pod "default/pod1" not found`.
                unheard_of = re.search(r'resource Pod "[^"]+" not found', error.why)
                if "client timeout exceeded" in error.why:
                    raise _Late(error.what, why=error.why) from None
                raise _UnheardOf(error.what, why=error.why) if unheard_of else error from None

        def ask_what_may_be_unheard_of() -> str:
            return try_until(ask, POD_PATIENCE, retry=_UnheardOf, every=0.1)

        text = try_until(ask_what_may_be_unheard_of, CNI_TIMEOUT, retry=_Late, every=0.1)
        try:
            found = [ip_interface(entry["address"]).ip for entry in json.loads(text)["ips"]]
        except (ValueError, KeyError, TypeError):
            raise LabError(f"cilium-cni plugged {pod} and answered what is no CNI result", why=text[:500]) from None
        return tuple(sorted(found, key=lambda address: address.version))

    def run_cni(self, stdin: str, cni_environment: Mapping[str, str]) -> str:
        """The CNI plugin's result, run on the node. Raises LabError with the plugin's own words.

        It sees the host's mounts, as a container runtime's plugins do: pods that came after the sandbox are not in the
        sandbox's. So it is told where the agent's socket is.
        """
        program = f"{self.bundle.root or ''}{self.bundle.required('cilium-cni')}"
        node = ["nsenter", f"--target={self.holder.pid}", "--uts", "--net", "--"]
        try:
            done = subprocess.run(
                [*node, program],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patient(CNI_TIMEOUT),
                env=environment(
                    {**self.extra_environment, **cni_environment, "CILIUM_SOCK": str(self.rundir / "cilium.sock")}
                ),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"cilium-cni on {self.node} has not plugged a pod after {patient(CNI_TIMEOUT):g} s",
                why=self.daemon.tail(3) if self.daemon else "its agent does not run",
                fix=f"is the machine overloaded? the agent's log: {self.log}",
            ) from None
        if done.returncode != 0:
            raise LabError(f"cilium-cni failed on {self.node}", why=_cni_error(done.stdout) or done.stderr.strip())
        return done.stdout


def _cni_error(text: str) -> str:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return f"{found.get('msg', '')} {found.get('details', '')}".strip()
    return text.strip()


def cgroup_hierarchy() -> Path:
    """Where the host has mounted cgroup v2. Raises LabError when nowhere."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise LabError(
        "no cgroup v2 hierarchy is mounted",
        why="Cilium attaches its socket load-balancer to a cgroup",
        fix="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )


def cgroup_of(ledger: Ledger, node: str) -> Path:
    """A node's cgroup, below one of the lab's own that is made: where its agent attaches its socket load-balancer."""
    return ledger.make_cgroup(cgroup_hierarchy() / f"niclab-{ledger.id}") / node
