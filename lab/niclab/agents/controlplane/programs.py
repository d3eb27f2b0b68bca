"""The programs of a control plane in the lab's namespace `control`, and how the nodes reach them.

A node's NICs and routes must stay exactly the topology's, for Cilium chooses its devices among what it finds. So the
nodes have no path to the control plane: a process outside listens on each node's own loopback and forwards (`relay`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import operator
import re
import secrets
import shutil
import socket
import ssl
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from niclab.agents import configuration
from niclab.agents.client import Client
from niclab.agents.controlplane import forwarder
from niclab.agents.kubeapi import TIMEOUT, Api, Refused
from niclab.errors import LabError, lab_error
from niclab.host import daemons, syscalls
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace
from niclab.host.process import environment
from niclab.host.substrate import Substrate
from niclab.host.waiting import wait_until
from niclab.net.route import Family
from niclab.topology.model import SERVICE_CIDRS

CONTROL = "control"
"""The role of the namespace the control plane runs in; no host of a topology can have this name."""
LOOPBACK = "127.0.0.1"
ETCD_PORT, _PEER_PORT, APISERVER_PORT = 2379, 2380, 6443
_GLANCE = 2.0
"""Seconds for one look at whether a program is ready."""
# The hook sleeps for a second before it looks; nothing in a lab has a priority class.
_READY = "/readyz?exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
_SYSTEM = "kube-system"
# The operator makes them one after the other, this one at the end (pkg/k8s/synced/crd.go AllCiliumCRDResourceNames).
_LAST_DEFINITION = "ciliumnodeconfigs.cilium.io"
_IPAM_WITHOUT_OPERATOR = frozenset({"", "kubernetes", "delegated-plugin"})
# klog (E0102 …, F0102 …), zap and slog in JSON, logfmt, and what cobra prints.
_TELLING = re.compile(r"^[EF]\d{4} |\b(error|fatal|panic)\b", re.I)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\uffef]+")
_LONGEST = 300


@dataclass(frozen=True)
class Programs:
    """Starts them, and waits until each is ready. `undo` ends what was started. Each has a log of its name in the lab's
    directory `control`."""

    ledger: Ledger
    substrate: Substrate
    patience: float
    undo: contextlib.ExitStack
    running: dict[str, Daemon] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return directory_of(self.ledger)

    def _start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        extra_environment: Mapping[str, str] | None = None,
    ) -> Daemon:
        daemon = daemons.start(
            self.ledger,
            name,
            arguments,
            log=self.directory / f"{name}.log",
            netns=self.substrate[CONTROL].fd,
            outright=True,
            pass_fds=pass_fds,
            extra_environment=extra_environment,
        )
        self.running[name] = daemon
        self.undo.callback(daemon.kill)
        return daemon

    def relay(self, nodes: Sequence[str], port: int) -> None:
        """One process that forwards 127.0.0.1:PORT of every node to the same port of the control namespace.

        A connection made before it has started waits in the socket's queue. Raises LabError when a port is taken.
        """
        with contextlib.ExitStack() as closing:
            sockets = [closing.enter_context(_listening(self.substrate[node], port)).fileno() for node in nodes]
            listeners = json.dumps([(handle, port) for handle in sockets])
            self._start("relay", [sys.executable, "-I", "-S", forwarder.__file__, listeners], pass_fds=sockets)

    def etcd(self, program: Path) -> None:
        """etcd on `data`: 0.2 s on a quiet machine."""
        data = self.directory / "etcd"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        client, peer = f"http://{LOOPBACK}:{ETCD_PORT}", f"http://{LOOPBACK}:{_PEER_PORT}"
        told = configuration.arguments("etcd", data=data, client=client, peer=peer)
        daemon = self._start("etcd", [str(program), *told])

        def lacking() -> str:
            with contextlib.closing(Client(lambda: dial(self.substrate[CONTROL], ETCD_PORT, 1), timeout=1)) as asked:
                try:
                    _, body = asked.ask("GET", "/health")
                except OSError as error:
                    return f"/health gives no answer ({error})"
            healthy = b'"health":"true"' in body.replace(b" ", b"")
            return "" if healthy else f"/health answers {body[:80].decode(errors='replace')!r}"

        self.until_ready(daemon, lacking)

    def apiserver(self, program: Path, families: Sequence[Family]) -> None:
        """kube-apiserver: no kubelet, no controllers, everyone with the token may do everything. It takes 1 to 2 s."""
        token, private = secrets.token_hex(16), self.directory / "apiserver"
        for path in (kubeconfig_of(self.directory).parent, private):
            path.mkdir(mode=0o700, exist_ok=True)
        (private / "token").write_text(token)
        (private / "tokens.csv").write_text(f'{token},niclab,niclab,"system:masters"\n')
        (private / "account.key").write_text(_signing_key())
        kubeconfig_of(self.directory).write_text(_kubeconfig(token))
        told = configuration.arguments(
            "kube-apiserver",
            etcd=f"http://{LOOPBACK}:{ETCD_PORT}",
            loopback=LOOPBACK,
            port=APISERVER_PORT,
            private=private,
            services=",".join(str(SERVICE_CIDRS[family]) for family in families),
        )
        self._start("kube-apiserver", [str(program), *told])
        self.wait_for_apiserver()

    def wait_for_apiserver(self) -> None:
        with contextlib.closing(connect(self.substrate, self.directory, timeout=_GLANCE)) as api:
            self.until_ready(self.running["kube-apiserver"], lambda: _lacks(api))

    def operator(
        self, program: Path, features: Collection[str], settings: Mapping[str, str], *, defines: bool
    ) -> Daemon:
        """Cilium's operator, configured as by `cilium-config`; `defines`: to make the definitions that agents wait for.
        Else it does what some features need at run time. It is not waited for."""
        directory = self.directory / "operator"
        directory.mkdir(mode=0o700, exist_ok=True)
        values = {
            **configuration.given("operator settings"),
            **dict.fromkeys(features, "true"),
            **settings,
            # It looks at each that is there already for a second, before it does anything else.
            "skip-crd-creation": str(not defines).lower(),
        }
        for name, value in values.items():
            (directory / name).write_text(value)
        # It keeps a socket and a directory in /run/cilium of whatever machine it runs on, and no setting of every
        # version moves them: so it has a /run of its own, of which only the control plane's directory is as it was.
        kept = str(self.directory)
        own: list[syscalls.Step] = [("own_mounts",), ("open", kept), ("fresh", "tmpfs", "/run"), ("show", kept, kept)]
        command = [
            str(program),
            f"--config-dir={directory}",
            f"--k8s-kubeconfig-path={kubeconfig_of(self.directory)}",
        ]
        return self._start(
            "cilium-operator",
            syscalls.command(own, command, purpose=f"run {program}"),
            extra_environment={"CILIUM_K8S_NAMESPACE": _SYSTEM, "K8S_NODE_NAME": CONTROL},
        )

    def define(self, api: Api, program: Path, features: Collection[str], settings: Mapping[str, str]) -> None:
        """Let the operator make its definitions, at about one a second, and end it."""
        daemon = self.operator(program, features, settings, defines=True)
        self.until_ready(daemon, lambda: lacking_definitions(api))
        self.running.pop("cilium-operator").kill()
        # Else the next one would wait until the lease has run out.
        api.delete("coordination.k8s.io/v1", "Lease", "cilium-operator-resource-lock", namespace=_SYSTEM)

    def until_ready(self, daemon: Daemon, state: Callable[[], str]) -> None:
        """Return when `state`, what is missing in words, is "". Raises LabError when the program ends or is late."""

        def look() -> str:
            lacking = state()
            if lacking and (status := daemon.exit_status) is not None:
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                raise LabError(f"{daemon.name} ended {how} before it was ready", why=last_words(daemon))
            return lacking

        if lacking := wait_until(look, self.patience, done=operator.not_, every=0.02):
            words = last_words(daemon)
            raise LabError(
                f"{daemon.name} was not ready after {self.patience:g} s: {lacking}",
                why=f"it said last: {words}" if words else "it said nothing",
                fix="is the machine overloaded? try again",
            )


def directory_of(ledger: Ledger) -> Path:
    """Where a lab's control plane keeps its files."""
    return ledger.path / "control"


def kubeconfig_of(directory: Path) -> Path:
    """In a directory of what agents and the operator see of the control plane's files."""
    return directory / "shared" / "kubeconfig"


def last_words(daemon: Daemon) -> str:
    """The line of a program's log that tells most: the last that speaks of an error, else the last."""
    printable = (_UNPRINTABLE.sub(" ", line).strip() for line in daemon.tail(40).splitlines())
    lines = [line if len(line) <= _LONGEST else line[:_LONGEST] + "…" for line in printable if line]
    return ([line for line in lines if _TELLING.search(line)] or lines or [""])[-1]


def _listening(node: Namespace, port: int) -> socket.socket:
    fix = f"ip netns exec {node.name} ss -ltnp shows who does"
    with lab_error(f"cannot listen on {LOOPBACK}:{port} of {node.name}", fix=fix), node.entered():
        return socket.create_server((LOOPBACK, port), backlog=256)


def dial(control: Namespace, port: int, timeout: float) -> socket.socket:
    """A connection to a port of the control namespace. Raises OSError."""
    with control.entered():
        return socket.create_connection((LOOPBACK, port), timeout)


def find_etcd(chosen: Path | None = None) -> Path:
    """The etcd to run: the chosen one, else the system's. Raises LabError when there is none."""
    found = str(chosen) if chosen else shutil.which("etcd", path=environment()["PATH"])
    if found is None or not Path(found).is_file():
        raise LabError(
            f"there is no etcd{f' at {chosen}' if chosen else ''}",
            why="real Cilium keeps its state in it, alone or behind kube-apiserver",
            fix="apt-get install etcd-server, or a bundle with it: niclab kubernetes pull VERSION --etcd IMAGE",
        )
    return Path(found)


def _lacks(api: Api) -> str:
    """What /readyz of the API server lacks, in words; nothing when all is ready."""
    try:
        answer = api.text(_READY)
    except Refused as refused:
        failing = [line for line in refused.why.splitlines() if line.startswith("[-]")]
        return f"/readyz answers {refused.status}{f', {failing[0]}' if failing else ''}"
    except OSError as error:
        return f"/readyz gives no answer ({error})"
    return "" if answer.strip() == "ok" else f"/readyz answers {answer[:80]!r}"


def connect(substrate: Substrate, directory: Path, *, timeout: float = TIMEOUT) -> Api:
    """A client of the lab's API server; it connects when it is first asked something. Raises LabError."""
    with lab_error(f"the control plane of the lab in {directory.parent} is gone"):
        token = (directory / "apiserver" / "token").read_text()
    # Who else could answer? The namespace is the lab's own.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Api(
        lambda: context.wrap_socket(dial(substrate[CONTROL], APISERVER_PORT, timeout)), token=token, timeout=timeout
    )


def _kubeconfig(token: str) -> str:
    """A kubeconfig for the agents and the operator; JSON, which every reader of YAML reads."""
    cluster = {"server": f"https://{LOOPBACK}:{APISERVER_PORT}", "insecure-skip-tls-verify": True}
    parts = {"cluster": cluster, "user": {"token": token}, "context": {"cluster": "niclab", "user": "niclab"}}
    lists = {f"{kind}s": [{"name": "niclab", kind: content}] for kind, content in parts.items()}
    return json.dumps({"apiVersion": "v1", "kind": "Config", **lists, "current-context": "niclab"}, indent=1) + "\n"


def _signing_key() -> str:
    """A new key for service account tokens: P-256, as RFC 5915 writes it, the public half left to the reader."""
    # Any 256-bit number below the curve's order will do; the order begins with 32 one bits, so clear the first.
    secret = bytes([secrets.randbelow(128)]) + secrets.token_bytes(31)
    prime256v1 = bytes.fromhex("06082a8648ce3d030107")
    body = b"\x02\x01\x01" + b"\x04\x20" + secret + b"\xa0" + bytes([len(prime256v1)]) + prime256v1
    text = base64.encodebytes(b"\x30" + bytes([len(body)]) + body).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


def needs_operator(features: Collection[str], settings: Mapping[str, str]) -> bool:
    """Must the operator run beside the agents? With ipam=kubernetes nodes get their pod CIDRs from the lab."""
    return (
        not set(configuration.given("needs the operator")).isdisjoint(features)
        or settings.get("ipam", "") not in _IPAM_WITHOUT_OPERATOR
    )


def lacking_definitions(api: Api) -> str:
    """Which of the operator's definitions are not there yet, in words; "" when all are."""
    definitions = api.objects("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    established = {
        one["metadata"]["name"]: ("Established", "True")
        in [(condition["type"], condition["status"]) for condition in one.get("status", {}).get("conditions") or ()]
        for one in definitions
    }
    if _LAST_DEFINITION not in established:
        return f"{len(established)} definitions so far, {_LAST_DEFINITION} not yet"
    waiting = ", ".join(name for name, stands in established.items() if not stands)
    return f"{waiting} not established" if waiting else ""
