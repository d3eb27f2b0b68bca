"""The relay: programs on a node reach the control plane at their own loopback, whatever becomes of either end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from niclab.agents.controlplane.programs import Programs, directory_of
from niclab.errors import LabError
from niclab.host import ledgers
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.waiting import wait_until
from niclab.net.operation import AddNamespace

from tests.support import processes
from tests.support.kernel import privileged

pytestmark = privileged

PORT = 2379
MUCH = 8 << 20
Talk = Callable[[socket.socket], None]


@dataclass
class Site:
    substrate: NetnsSubstrate
    ledger: Ledger
    daemon: Daemon

    def connect(self, node: str = "node1") -> socket.socket:
        with self.substrate[node].entered():
            return socket.create_connection(("127.0.0.1", PORT), 5)

    def ask(self, node: str = "node1") -> bytes:
        with self.connect(node) as connection:
            return connection.recv(100)

    @contextmanager
    def backend(self, talk: Talk) -> Iterator[None]:
        """A server in the control namespace that talks with one client after the other."""
        with self.substrate["control"].entered():
            listening = socket.create_server(("127.0.0.1", PORT))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            thread.join(10)
            assert not thread.is_alive()


def started(ledger: Ledger, substrate: NetnsSubstrate, nodes: list[str]) -> Programs:
    directory_of(ledger).mkdir(exist_ok=True)
    programs = Programs(ledger, substrate, 5, contextlib.ExitStack())
    programs.relay(nodes, PORT)
    return programs


@pytest.fixture
def site() -> Iterator[Site]:
    ledger = Ledger.open_new()
    substrate = NetnsSubstrate(ledger)
    try:
        substrate.apply([AddNamespace("node1"), AddNamespace("node2"), AddNamespace("control")])
        programs = started(ledger, substrate, ["node1", "node2"])
        daemon = programs.running["relay"]
        yield Site(substrate, ledger, daemon)
        assert daemon.tail() == ""
        assert daemon.exit_status is None
    finally:
        substrate.close()
        ledger.release()


def says(word: bytes) -> Talk:
    return lambda connection: connection.sendall(word)


def test_every_node_reaches_the_backend(site: Site) -> None:
    with site.backend(says(b"hello")):
        assert (site.ask("node1"), site.ask("node2")) == (b"hello", b"hello")


def test_nodes_get_no_interface(site: Site) -> None:
    for node in ("node1", "node2"):
        with site.substrate[node].entered():
            assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_much_data_both_ways_and_each_half_ends_for_itself(site: Site) -> None:
    def echo(connection: socket.socket) -> None:
        data = bytearray()
        while chunk := connection.recv(1 << 16):
            data += chunk
        # Only now, when the client has ended its half, does the answer begin.
        connection.sendall(data[::-1])

    sent = os.urandom(1 << 16) * (MUCH >> 16)
    with site.backend(echo), site.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while chunk := connection.recv(1 << 16):
            received += chunk
    assert received == sent[::-1]


def test_a_client_that_does_not_read_slows_its_own_backend_only(site: Site) -> None:
    stuck = threading.Event()

    def pour(connection: socket.socket) -> None:
        connection.settimeout(0.2)
        try:
            while True:
                connection.sendall(bytes(1 << 16))
        except OSError:
            stuck.set()

    with site.backend(pour), site.connect():
        assert stuck.wait(10), "the relay takes up whatever it is given"


def test_without_a_backend_connections_are_reset_and_work_later(site: Site) -> None:
    with pytest.raises(ConnectionResetError):
        site.ask()
    with site.backend(says(b"late")):
        assert site.ask() == b"late"


def test_a_restarted_backend_is_found_again(site: Site) -> None:
    for word in (b"one", b"two", b"three"):
        with site.backend(says(word)):
            assert site.ask() == word


def test_a_reset_of_the_backend_reaches_the_client(site: Site) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with site.backend(reset), site.connect() as connection:
        connection.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            connection.recv(10)


def test_a_client_that_goes_ends_the_backends_connection(site: Site) -> None:
    ended: list[bytes | str] = []

    def wait(connection: socket.socket) -> None:
        connection.sendall(b"welcome")
        try:
            ended.append(connection.recv(10))
        except ConnectionResetError:
            ended.append("reset")

    with site.backend(wait):
        with site.connect() as connection:
            assert connection.recv(10) == b"welcome"
        with site.connect() as connection:
            assert connection.recv(10) == b"welcome"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ended == [b"", "reset"]


def test_many_at_once(site: Site) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))

    with site.backend(answer):
        connections = [site.connect(("node1", "node2")[number % 2]) for number in range(300)]
        for number, connection in enumerate(connections):
            connection.sendall(str(number).encode())
        for number, connection in enumerate(connections):
            with connection:
                assert connection.recv(100) == str(number).encode()


def test_dead_connections_do_not_pile_up(site: Site) -> None:
    with site.backend(says(b"hello")):
        for _ in range(50):
            site.ask()

        # Each connection takes two.
        assert wait_until(lambda: len(list(Path(f"/proc/{site.daemon.pid}/fd").iterdir())) < 20, 5)


def test_a_taken_port_is_an_error(site: Site) -> None:
    with pytest.raises(LabError, match=r"cannot listen on 127\.0\.0\.1:2379 of .*-node1") as caught:
        started(site.ledger, site.substrate, ["node1"])
    assert "ss -ltnp" in caught.value.fix


_DOOMED = """
import contextlib, json, os, signal
from niclab.agents.controlplane.programs import Programs, directory_of
from niclab.net.operation import AddNamespace
from niclab.host.netns import NetnsSubstrate
from niclab.host.ledgers import Ledger
ledger = Ledger.open_new()
substrate = NetnsSubstrate(ledger)
substrate.apply([AddNamespace("node1"), AddNamespace("control")])
directory_of(ledger).mkdir()
programs = Programs(ledger, substrate, 5, contextlib.ExitStack())
programs.relay(["node1"], 2379)
print(json.dumps([ledger.id, programs.running["relay"].pid, str(ledger.path)]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_leaves_nothing_that_a_sweep_does_not_find() -> None:
    done = subprocess.run([sys.executable, "-c", _DOOMED], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    lab, pid, _path = json.loads(done.stdout)
    assert processes.runs(pid), "it is to outlive its parent: labs can be kept"
    swept = ledgers.sweep()
    assert lab in swept.labs
    assert not processes.runs(pid)
