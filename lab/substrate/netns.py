"""The netns substrate: carries out plans with network namespaces, veth pairs and bridges of this kernel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.errors import LabError
from lab.operation import (
    AddAddress,
    AddBridge,
    AddCable,
    AddNamespace,
    AddNeighbour,
    AddRoute,
    AddRule,
    AddVxlan,
    Operation,
    SetLink,
    SetNftables,
    SetSysctl,
)
from lab.process import run
from lab.substrate import namespace, netlink
from lab.substrate.ownership import Ledger, named_directory

_LOOPBACK = SetLink("", "lo")


@dataclass(slots=True)
class Namespace:
    """One named network namespace of the lab: its handle, its netlink channel and its interfaces' indices."""

    role: str
    name: str
    path: Path
    fd: int
    channel: netlink.Channel
    indices: dict[str, int] = field(default_factory=lambda: {"lo": 1})

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block with the calling thread in this namespace."""
        with namespace.entered(self.fd):
            yield

    def close(self) -> None:
        self.channel.close()
        os.close(self.fd)


class Substrate:
    """The namespaces of one lab, by role. Everything made is in the ledger before it exists."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._namespaces: dict[str, Namespace] = {}

    @classmethod
    def attached(cls, ledger: Ledger, names: dict[str, str]) -> Substrate:
        """The substrate of a kept lab, opened again."""
        substrate = cls(ledger)
        for role, name in names.items():
            path = named_directory(ledger) / name
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with namespace.entered(fd):
                found = Namespace(role, name, path, fd, netlink.Channel())
                found.indices.update({interface: index for index, interface in _interfaces()})
            substrate._namespaces[role] = found
        return substrate

    def __getitem__(self, role: str) -> Namespace:
        return self._namespaces[role]

    def __contains__(self, role: str) -> bool:
        return role in self._namespaces

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._namespaces.values())

    def close(self) -> None:
        """Let go of every handle; the namespaces stay until the ledger is released."""
        for one in self._namespaces.values():
            one.close()
        self._namespaces.clear()

    def apply(self, operations: Iterable[Operation]) -> None:
        """Carry out the operations in order. Raises LabError naming the one that was refused, and the kernel's reason."""
        waiting: list[tuple[Operation, bytes]] = []
        current: Namespace | None = None

        def flush() -> None:
            if current is not None and waiting:
                _send(current, waiting)
            waiting.clear()

        with namespace.home_restored():
            for operation in operations:
                if isinstance(operation, AddNamespace):
                    flush()
                    current = self._add_namespace(operation)
                    continue
                target = self._namespaces[operation.namespace]
                if target is not current:
                    flush()
                    current = target
                if isinstance(operation, SetSysctl | SetNftables):
                    flush()
                    self._set(operation, target)
                else:
                    waiting.append((operation, self._message(operation, target)))
            flush()

    def _add_namespace(self, operation: AddNamespace) -> Namespace:
        name = f"{self._ledger.id}-{operation.namespace}"
        path = named_directory(self._ledger) / name
        if path.exists():
            raise LabError(f"the namespace {name} exists already and is not this lab's", mend="use another --id")
        self._ledger.write("making namespace", role=operation.namespace, name=name)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        try:
            namespace.unshare_network()
            namespace.bind_current_network(str(path))
        except OSError as error:
            raise LabError(
                f"cannot make the network namespace {name}",
                why=str(error),
                mend="niclab check says what this machine lacks (root, or user namespaces)",
            ) from None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ledger.write("made namespace", role=operation.namespace, name=name, inode=os.fstat(fd).st_ino)
        made = Namespace(operation.namespace, name, path, fd, netlink.Channel())
        self._namespaces[operation.namespace] = made
        for key, value in operation.sysctls.items():
            _write_sysctl(key, value, name)
        made.channel.send([netlink.set_link(_LOOPBACK, 1)])
        return made

    def _set(self, operation: SetSysctl | SetNftables, target: Namespace) -> None:
        with target.entered():
            if isinstance(operation, SetSysctl):
                _write_sysctl(operation.key, operation.value, target.name)
            else:
                # A child inherits the calling thread's network namespace.
                run(["nft", "-f", "-"], stdin=operation.ruleset)

    def _message(self, operation: Operation, target: Namespace) -> bytes:
        def index(name: str) -> int:
            if name not in target.indices:
                raise LabError(f"{target.role} has no interface {name!r}", why=operation.lines()[0])
            return target.indices[name]

        match operation:
            case AddBridge():
                return netlink.add_bridge(operation, _new_index(target, operation.name))
            case AddVxlan():
                return netlink.add_vxlan(operation, _new_index(target, operation.name))
            case AddCable():
                peer = self._namespaces[operation.peer_namespace]
                own = _new_index(target, operation.name)
                master = index(operation.master) if operation.master else None
                return netlink.add_cable(operation, own, _new_index(peer, operation.peer_name), peer.fd, master)
            case SetLink():
                return netlink.set_link(operation, index(operation.name))
            case AddAddress():
                return netlink.add_address(operation, index(operation.dev))
            case AddRoute():
                return netlink.add_route(operation, index)
            case AddRule():
                return netlink.add_rule(operation)
            case AddNeighbour():
                return netlink.add_neighbour(operation, index(operation.dev))
            case _:
                raise AssertionError(operation)


def _send(target: Namespace, waiting: list[tuple[Operation, bytes]]) -> None:
    try:
        target.channel.send([message for _, message in waiting])
    except netlink.Refusal as refusal:
        line = waiting[refusal.position][0].lines()[0].replace(f"-n {target.role} ", f"-n {target.name} ", 1)
        raise LabError(f"the kernel refused: {line}", why=str(refusal), mend="correct the topology") from None


def _new_index(target: Namespace, name: str) -> int:
    target.indices[name] = max(target.indices.values()) + 1
    return target.indices[name]


def _interfaces() -> list[tuple[int, str]]:
    import socket

    return socket.if_nameindex()


def _write_sysctl(key: str, value: str, name: str) -> None:
    path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(
            f"no sysctl {key} in {name}",
            why=error.strerror or str(error),
            mend="this kernel does not have it: remove it",
        ) from None
    try:
        os.write(handle, value.encode())
    except OSError as error:
        raise LabError(f"the kernel refused {key}={value} in {name}", why=error.strerror or str(error)) from None
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)
