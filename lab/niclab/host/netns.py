"""The netns substrate: carries out plans with network namespaces, veth pairs and bridges of this kernel."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from niclab.errors import LabError, lab_error
from niclab.host import ledgers, namespace, netlink, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.process import run
from niclab.kernel.plan import END
from niclab.net.operation import AddCable, AddNamespace, Operation, SetPacketRules, SetSysctl, lines

_FIRST_INDEX = 1000
"""Interfaces of the lab are numbered from here: a new namespace may hold tunl0, sit0 and their like already, one for
each tunnel module that is loaded (net.core.fb_tunnels_only_for_init_net)."""

_FIRST_END = 10_000
"""The ends of cables that NICs stand on are numbered from here: those of what people see have no gaps."""


@dataclass(slots=True)
class Namespace:
    """One named network namespace of the lab: its handle, its netlink channel and its interfaces' indices."""

    role: str
    name: str
    path: Path
    fd: int
    channel: netlink.Channel
    indices: dict[str, int] = field(default_factory=lambda: {"lo": 1})

    def entered(self) -> AbstractContextManager[None]:
        """Run the block with the calling thread in this namespace."""
        return syscalls.entered(self.fd)

    def index(self, name: str) -> int:
        """The index of an interface. Raises LabError."""
        if name not in self.indices:
            raise LabError(f"{self.role} has no interface {name!r}")
        return self.indices[name]

    def new_index(self, name: str) -> int:
        """The index for an interface that is about to be made."""
        first = _FIRST_END if name.startswith(END) else _FIRST_INDEX
        taken = [index for index in self.indices.values() if (index > _FIRST_END) == (first == _FIRST_END)]
        self.indices[name] = max([first, *taken]) + 1
        return self.indices[name]

    def dump(self, request: bytes) -> list[bytes]:
        """All answers of the kernel to a dump request (`niclab.host.messages`). Raises LabError."""
        try:
            return self.channel.dump(request)
        except netlink.Refusal as refusal:
            raise LabError(
                f"the kernel does not list what {self.name} has", why=str(refusal), fix="try again"
            ) from None

    def close(self) -> None:
        self.channel.close()
        os.close(self.fd)


@functools.cache
def makes(kind: str) -> bool:
    """Does this kernel have links of a kind? Asked by a message that is refused in any case. Raises OSError."""
    from niclab.host.messages import incomplete_link

    with syscalls.home_restored():
        # A namespace without a name, which is gone when the thread and the channel have left it.
        syscalls.unshare_network()
        with contextlib.closing(netlink.Channel()) as channel:
            try:
                channel.send([incomplete_link(kind)])
            except netlink.Refusal as refusal:
                return refusal.errno != errno.EOPNOTSUPP
            return True


class NetnsSubstrate:
    """The namespaces of one lab, by role. Everything made is in the ledger before it exists."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._namespaces: dict[str, Namespace] = {}

    @classmethod
    def attached(cls, ledger: Ledger, names: dict[str, str]) -> NetnsSubstrate:
        """The substrate of a kept lab, opened again."""
        made = ledgers.inodes(ledger.path)
        with contextlib.ExitStack() as undo:
            substrate = cls(ledger)
            undo.callback(substrate.close)
            for role, name in names.items():
                path = namespace.NAMED / name
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise _not_ours(ledger, name, error.strerror or str(error)) from None
                if os.fstat(fd).st_ino != made.get(name):
                    os.close(fd)
                    raise _not_ours(ledger, name, "another one stands under its name")
                with syscalls.entered(fd):
                    entry = Namespace(role, name, path, fd, netlink.Channel())
                    entry.indices.update({interface: index for index, interface in socket.if_nameindex()})
                substrate._namespaces[role] = entry
            undo.pop_all()
        return substrate

    def __getitem__(self, role: str) -> Namespace:
        return self._namespaces[role]

    def __contains__(self, role: str) -> bool:
        return role in self._namespaces

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._namespaces.values())

    def close(self) -> None:
        """Let go of every handle; the namespaces stay until the ledger is released."""
        for entry in self._namespaces.values():
            entry.close()
        self._namespaces.clear()

    def apply(self, operations: Iterable[Operation]) -> None:
        """Carry out the operations in order. Raises LabError naming what was refused, and the kernel's reason."""
        waiting: list[tuple[Operation, bytes]] = []
        current: Namespace | None = None

        def flush() -> None:
            if current is not None and waiting:
                _send(current, waiting)
            waiting.clear()

        from niclab.host.messages import operation_message  # pyroute2 takes a while to import

        with syscalls.home_restored():
            for operation in operations:
                if isinstance(operation, AddNamespace):
                    flush()
                    current = self._add_namespace(operation)
                    continue
                target = self._namespaces[operation.namespace]
                if target is not current:
                    flush()
                    current = target
                if isinstance(operation, SetSysctl | SetPacketRules):
                    flush()
                    self._set(operation, target)
                else:
                    peer = self._namespaces[operation.peer_namespace] if isinstance(operation, AddCable) else None
                    try:
                        waiting.append((operation, operation_message(operation, target, peer)))
                    except LabError as error:
                        raise LabError(error.what, why=lines(operation)[0]) from None
            flush()

    def _add_namespace(self, operation: AddNamespace) -> Namespace:
        """Leaves the calling thread in the new namespace."""
        name = f"{self._ledger.id}-{operation.namespace}"
        path = self._ledger.named_directory() / name
        try:
            fd = self._make(operation.namespace, name, path)
            try:
                made = Namespace(operation.namespace, name, path, fd, netlink.Channel())
            except OSError:
                os.close(fd)
                raise
            self._namespaces[operation.namespace] = made
            _write_sysctls(operation.sysctls, name)
        except FileExistsError:
            raise LabError(
                f"the namespace {name} exists already and is not this lab's", fix="use another --id"
            ) from None
        except OSError as error:
            raise LabError(
                f"cannot make the network namespace {name}",
                why=str(error),
                fix="raise the limit on open files (ulimit -n): a namespace takes two"
                if error.errno == errno.EMFILE
                else "niclab check says what this machine lacks (root, or user namespaces)",
            ) from None
        from niclab.host.messages import link_message

        made.channel.send([link_message(made.index("lo"), up=True)])
        return made

    def _make(self, role: str, name: str, path: Path) -> int:
        """A handle to a new namespace named `path`. Raises OSError; what stands there is left alone then."""
        if path.exists():
            raise FileExistsError
        self._ledger.write("making namespace", role=role, name=name)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        except OSError:  # somebody made it just now
            self._ledger.write("not making namespace", role=role, name=name)
            raise
        syscalls.unshare_network()
        namespace.bind_current(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ledger.write("made namespace", role=role, name=name, inode=os.fstat(fd).st_ino)
        return fd

    def _set(self, operation: SetSysctl | SetPacketRules, target: Namespace) -> None:
        """Leaves the calling thread in the namespace."""
        syscalls.set_network(target.fd)
        if isinstance(operation, SetSysctl):
            _write_sysctls({operation.key: operation.value}, target.name)
        else:
            # A child inherits the calling thread's network namespace.
            run(["nft", "-f", "-"], stdin=operation.ruleset, namespace=target.name)


def _send(target: Namespace, waiting: list[tuple[Operation, bytes]]) -> None:
    try:
        target.channel.send([message for _, message in waiting])
    except netlink.Refusal as refusal:
        line = lines(waiting[refusal.position][0])[0].replace(f"-n {target.role} ", f"-n {target.name} ", 1)
        raise LabError(f"the kernel refused: {line}", why=str(refusal), fix="correct the topology") from None


def _not_ours(ledger: Ledger, name: str, why: str) -> LabError:
    return LabError(f"the namespace {name} of lab {ledger.id} is gone", why=why, fix=f"niclab down {ledger.id}")


def _write_sysctls(values: Mapping[str, str], name: str) -> None:
    """Write sysctls of the namespace the calling thread is in. Raises LabError, or OSError without /proc.

    The kernel finds `net` in a list of all namespaces' directories of that name, so it is looked up once only.
    """
    with contextlib.ExitStack() as undo:
        net = os.open("/proc/sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, net)
        for key, value in values.items():
            path = key if "/" in key else key.replace(".", "/")
            if not path.startswith("net/") or "/../" in path:
                what, fix = f"the sysctl {key} is none of {name}'s own", "remove it: only net.* may be"
                raise LabError(what, why="it would change the host", fix=fix)
            with lab_error(f"no sysctl {key} in {name}", fix="this kernel does not have it: remove it"):
                handle = os.open(path[4:], os.O_WRONLY | os.O_CLOEXEC, dir_fd=net)
            undo.callback(os.close, handle)
            with lab_error(f"the kernel refused {key}={value} in {name}"):
                os.write(handle, value.encode())
