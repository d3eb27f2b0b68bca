"""One real agent on one node: its directories and configuration, its start, and its last words when it exits."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niclab.agents import api, objects, toolchain
from niclab.agents.bundle import CiliumBundle
from niclab.agents.last_words import last_words
from niclab.agents.launch import READY, Sandbox
from niclab.errors import LabError, NoAnswer
from niclab.host import daemons
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.process import UNKNOWN, environment, run
from niclab.host.waiting import wait_until

SANDBOX_LOG = "sandbox.log"
_NO_ANSWER = "the agent did not answer\n"
READY_DEADLINE = 90.0
"""Seconds for an agent to answer `Ok`; compiling its programs takes a few. An agent of 1.20 with address pools that
loses a race for its CiliumNode looks again only after a minute (pkg/ipam/multipool_manager.go refreshPoolInterval)."""
DBG_TIMEOUT = 20.0
SANDBOX_DEADLINE = 10.0
LINK_PATIENCE = 5.0
CNI_TIMEOUT = 100.0
"""Seconds for a pod to be plugged. The plugin itself gives up after 90 (pkg/client), with words of its own."""
_UNHURRIED = {"GOGC": "400"}
"""A starting agent spends a fifth of its time collecting garbage (Go's runtime); it may keep some."""
_IP = (("addr",), ("route", "show", "table", "all"), ("-6", "route", "show", "table", "all"), ("rule",), ("-6", "rule"))


def process_name(node: str) -> str:
    """How the ledger calls a node's agent."""
    return f"agent on {node}"


def directory_of(ledger: Ledger, node: str) -> Path:
    """Where a node's agent has its files."""
    return ledger.path / "nodes" / node


def environment_of(directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What an agent's environment has over this process's; its own tools are the first on PATH."""
    return {**_UNHURRIED, **extra, "PATH": f"{directory / 'bin'}:{environment()['PATH']}"}


@dataclass
class Agent:
    """A node's agent. `directory` holds its run directory, configuration, library directory and log."""

    node: str
    bundle: CiliumBundle
    holder: Daemon
    """Holds the node's sandbox open, over every restart of the agent."""
    directory: Path
    ledger: Ledger
    extra_environment: Mapping[str, str]
    daemon: Daemon | None = None
    exited: str | None = None
    """Its last words, when it refused to run or died."""
    starts: int = 0
    _said: dict[str, Any] = field(default_factory=dict)

    def command(self, program: Sequence[str]) -> list[str]:
        """The argument list that runs a program in the node's sandbox; it can be pasted."""
        return [*daemons.entrance(self.holder.pid), *program]

    @property
    def bpffs(self) -> Path:
        """The node's bpffs, as the host sees it: through the sandbox's root."""
        return Path(f"/proc/{self.holder.pid}/root/sys/fs/bpf")

    def wait_for_link(self, name: str) -> bool:
        """Whether the node has this link, at most LINK_PATIENCE seconds from now."""
        link = Path(f"/proc/{self.holder.pid}/root/sys/class/net/{name}")
        return wait_until(link.exists, LINK_PATIENCE)

    @property
    def state(self) -> Path:
        """What the agent takes up again when it is restarted."""
        return self.directory / "run" / "state"

    @property
    def log(self) -> Path:
        return self.directory / f"agent-{self.starts}.log"

    def died(self) -> bool:
        """Has it ended by itself since it was ready? Then `exited` has its last words."""
        if self.daemon is None or self.daemon.exit_status is None or self.exited is not None:
            return False
        words = last_words(self.log.read_text(errors="replace")) or "it said nothing"
        status = self.daemon.exit_status
        self.exited = f"died{'' if status == UNKNOWN else f' with status {status}'}: {words}"
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
        program = [str(self.bundle.agent), f"--config-dir={config}"]
        self.daemon = daemons.start(
            self.ledger,
            process_name(self.node),
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
        ready = self.directory / "run" / READY

        def settled() -> bool:
            return ready.exists() or self.holder.exit_status is not None

        wait_until(settled, SANDBOX_DEADLINE)
        if not ready.exists():
            raise LabError(f"the sandbox of {self.node} does not stand", why=self.holder.tail(2) or "it said nothing")

    def wait(self, deadline: float = READY_DEADLINE) -> None:
        """Return when the agent says Ok, or has exited and `exited` has its last words. Raises LabError for neither."""

        def settled() -> bool:
            assert self.daemon is not None
            if self.daemon.exit_status is not None:
                words = last_words(self.log.read_text(errors="replace"))
                self.exited = words or f"exited with status {self.daemon.exit_status} and said nothing"
                return True
            if not (self.directory / "run" / "cilium.sock").exists():
                return False
            status = self.status()
            return bool(status) and status.get("cilium", {}).get("state") == "Ok"

        if not wait_until(settled, deadline, every=0.05):
            assert self.daemon is not None
            raise LabError(
                f"the agent on {self.node} is not ready after {deadline:g} s",
                why=self.daemon.tail(3) or "it said nothing",
                fix=f"its log: {self.log}",
            )

    def dbg(self, *arguments: str, timeout: float = DBG_TIMEOUT) -> str | None:
        """What `cilium-dbg ARGUMENTS` prints; None when it fails."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                self.command([str(self.bundle.dbg), *arguments]),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=environment(self.extra_environment),
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
        return None

    def collect(self, directory: Path) -> None:
        """Keep what there is to know of the node: its agent's logs and own words, its addresses, routes and rules."""
        directory.mkdir(parents=True, exist_ok=True)
        for log in sorted(self.directory.glob("*.log")):
            shutil.copy(log, directory / log.name)
        outputs = {
            "status.json": json.dumps(self.status(), indent=1),
            "devices.json": self.table("devices") or _NO_ANSWER,
            "node-addresses.json": self.table("node-addresses") or _NO_ANSWER,
            "status-verbose.txt": self._printed([str(self.bundle.dbg), "status", "--verbose"]),
            **{f"ip-{'-'.join(words)}.txt": self._printed(["ip", *words]) for words in _IP},
        }
        for name, text in outputs.items():
            (directory / name).write_text(text)

    def _printed(self, program: Sequence[str]) -> str:
        """What a program prints on the node; the error when it fails, for an empty file would be no evidence."""
        try:
            return run(self.command(program), timeout=DBG_TIMEOUT, extra_environment=self.extra_environment)
        except LabError as error:
            return f"{error}\n"

    def ip(self, *words: str) -> str:
        """What `ip WORDS` prints on the node."""
        done = subprocess.run(
            self.command(["ip", *words]), capture_output=True, text=True, env=environment(), check=False, timeout=10
        )
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `cilium-dbg status -o json` prints; {} while the agent does not answer yet."""
        status = self.get("healthz")
        return status if isinstance(status, dict) else {}

    def answer(self, resource: str) -> Any:
        """As `get`, None for an error the agent answers with. Raises NoAnswer: silence is not an empty list."""
        try:
            return api.answer(self.directory / "run" / "cilium.sock", resource)
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = f"the agent on {self.node} does not answer GET /v1/{resource}"
            raise NoAnswer(what, why=f"{error}; it last logged: {self._last_lines}") from None

    @property
    def _last_lines(self) -> str:
        return (self.daemon.tail(3) if self.daemon else "") or "nothing"

    def get(self, resource: str) -> Any:
        """The JSON behind a resource of the agent's API; None without an answer."""
        return api.get(self.directory / "run" / "cilium.sock", resource)

    def table(self, name: str) -> str:
        """A table of the agent's StateDB, as JSON objects one after the other; "" without an answer."""
        text = api.shell(self.directory / "run" / "shell.sock", f"db/show {name} --format=json") or ""
        return text.removesuffix(api.END)

    def answered_table(self, name: str) -> str:
        """As `table`. Raises NoAnswer."""
        text = api.shell(self.directory / "run" / "shell.sock", f"db/show {name} --format=json")
        if text is None:
            what = f"the agent on {self.node} does not show its table {name}"
            raise NoAnswer(what, why=f"it last logged: {self._last_lines}")
        return text.removesuffix(api.END)

    def run_cni(self, stdin: str, cni_environment: Mapping[str, str]) -> str:
        """The CNI plugin's result, run on the node. Raises LabError with the plugin's own words.

        It sees the host's mounts, as a container runtime's plugins do: pods that came after the sandbox are not in the
        sandbox's. So it is told where the agent's socket is.
        """
        program = f"{self.bundle.root or ''}{self.bundle.cni}"
        node = ["nsenter", f"--target={self.holder.pid}", "--uts", "--net", "--"]
        socket = {"CILIUM_SOCK": str(self.directory / "run" / "cilium.sock")}
        try:
            done = subprocess.run(
                [*node, program],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CNI_TIMEOUT,
                env=environment({**self.extra_environment, **cni_environment, **socket}),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"cilium-cni on {self.node} has not plugged a pod after {CNI_TIMEOUT:g} s",
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


def prepare(
    *,
    node: str,
    netns: Path,
    bundle: CiliumBundle,
    ledger: Ledger,
    cgroup: Path,
    binds: Sequence[str] = (),
    extra_environment: Mapping[str, str],
    holds: Sequence[int] = (),
) -> Agent:
    """A node's directories, cgroup and sandbox; the agent is not started. Raises LabError.

    `holds`: descriptors that stay open as long as the sandbox (`niclab.agents.bundle.store.held`).
    """
    directory = directory_of(ledger, node)
    for name in ("run", "config", "artifacts"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    ledger.make_cgroup(cgroup)
    kept = objects.directory()
    toolchain.provide(directory / "bin", bundle, kept)
    if bundle.kind == "directory":
        # The agent writes headers among the sources when it starts: each node has its own copy.
        shutil.copytree(
            bundle.bpf,
            directory / "run" / "lib" / "bpf",
            ignore=shutil.ignore_patterns("tests", "complexity-tests", "Documentation"),
            dirs_exist_ok=True,
        )
    sandbox = Sandbox(
        netns=str(netns),
        hostname=node,
        run=str(directory / "run"),
        cgroup=str(cgroup),
        binds=(str(netns.parent), str(directory), *binds, *([str(kept)] if kept else ())),
        root=str(bundle.root) if bundle.root else "",
        layer=str(directory / "layer") if bundle.root else "",
    )
    holder = daemons.start(
        ledger, f"{daemons.SANDBOX}{node}", sandbox.command(), log=directory / SANDBOX_LOG, pass_fds=holds
    )
    return Agent(node, bundle, holder, directory, ledger, environment_of(directory, extra_environment))
