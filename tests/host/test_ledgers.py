"""Who made what: ids, ledgers, sweeps, and what happens when they meet."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from niclab.errors import LabError
from niclab.host import ledgers, namespace, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import environment
from niclab.host.userns import is_able
from niclab.net.operation import AddNamespace

pytestmark = pytest.mark.skipif(not is_able(), reason="needs root: makes network namespaces")


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Directories of the test's own: labs of this machine are none of its business."""
    monkeypatch.setattr(ledgers, "STATE", tmp_path / "state")
    monkeypatch.setattr(namespace, "NAMED", tmp_path / "netns")
    yield
    # A mount that is left would keep pytest from removing the directory.
    for mount in reversed(syscalls.mounts()):
        if mount.point.startswith(str(tmp_path / "netns")):
            syscalls.unmount(mount.point)


def make(ledger: Ledger, *roles: str) -> None:
    substrate = NetnsSubstrate(ledger)
    substrate.apply([AddNamespace(role) for role in roles])
    substrate.close()


def killed(lab_id: str, *roles: str) -> Path:
    """A lab as it is left when its process dies: nothing is undone, and its locks are gone."""
    ledger = Ledger.open_new(lab_id)
    make(ledger, *roles)
    os.close(ledger._lock)
    os.close(ledger._log)
    return ledger.path


def names() -> set[str]:
    return {path.name for path in namespace.NAMED.glob("*")}


def by_hand(name: str) -> None:
    """A namespace that somebody else made."""
    path = namespace.NAMED / name
    path.touch()
    with syscalls.home_restored():
        syscalls.unshare_network()
        namespace.bind_current(path)


def nothing_is_left() -> bool:
    return not ledgers.STATE.exists() and not namespace.NAMED.exists()


BAD = ["", ".", "..", "../x", "/etc", "a/b", "-a", "A", "a b", "a\n", "ä", "a" * 33, "a-", "*", "a\0b", "lab_1"]


@pytest.mark.parametrize("lab_id", BAD)
def test_bad_ids_are_refused_and_touch_nothing(lab_id: str) -> None:
    victim = Ledger.open_new("victim")
    before = sorted(ledgers.STATE.parent.rglob("*"))
    for use in (Ledger.open_new, Ledger.open_existing, ledgers.remove):
        with pytest.raises(LabError, match="cannot be a lab's id"):
            use(lab_id)
    assert sorted(ledgers.STATE.parent.rglob("*")) == before
    victim.release()


@pytest.mark.parametrize("lab_id", ["a", "0", "a" * 32, "a-b", "lab0"])
def test_good_ids(lab_id: str) -> None:
    ledger = Ledger.open_new(lab_id)
    make(ledger, "n" * 32)
    assert names() == {f"{lab_id}-{'n' * 32}"}
    ledger.release()
    assert nothing_is_left()


def test_a_random_id_is_a_good_one() -> None:
    ledger = Ledger.open_new()
    assert ledgers._ID.fullmatch(ledger.id)
    ledger.release()


def test_a_role_too_long_for_a_file_is_an_error_and_leaves_nothing() -> None:
    ledger = Ledger.open_new("one")
    with pytest.raises(LabError, match="cannot make the network namespace"):
        make(ledger, "n" * 255)
    ledger.release()
    assert nothing_is_left()


def test_asking_for_a_lab_that_is_not_there_makes_no_directory() -> None:
    with pytest.raises(LabError, match="there is no lab"):
        ledgers.remove("gone")
    assert ledgers.labs() == []
    assert ledgers.sweep() == ledgers.Swept((), ())
    assert nothing_is_left()


def test_an_id_is_taken_until_its_lab_is_gone() -> None:
    first = Ledger.open_new("one")
    with pytest.raises(LabError, match="there is a lab 'one' already"):
        Ledger.open_new("one")
    with pytest.raises(LabError, match="in use by another process"):
        Ledger.open_existing("one")
    first.release()
    Ledger.open_new("one").release()
    assert nothing_is_left()


def test_release_twice_closes_nobody_elses_handles() -> None:
    ledger = Ledger.open_new("one")
    lock = ledger._lock
    ledger.release()
    reused = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    assert lock in reused
    ledger.release()
    for handle in reused:
        os.close(handle)  # raises when the second release had closed it


def test_sweep_takes_dead_labs_only() -> None:
    killed("dead", "node1", "node2")
    alive = Ledger.open_new("alive")
    make(alive, "node1")
    kept = Ledger.open_new("kept")
    make(kept, "node1")
    kept.keep()
    kept.release()
    assert {(lab.id, lab.alive, lab.kept) for lab in ledgers.labs()} == {
        ("dead", False, False),
        ("alive", True, False),
        ("kept", False, True),
    }
    assert ledgers.sweep() == ledgers.Swept(("dead",), ())
    assert names() == {"alive-node1", "kept-node1"}
    assert ledgers.sweep(kept=True).labs == ("kept",)
    alive.release()
    assert nothing_is_left()


def test_ids_that_begin_alike_are_not_confused() -> None:
    killed("a", "node1")
    other = Ledger.open_new("a-node1")
    make(other, "x")
    assert ledgers.sweep().labs == ("a",)
    assert names() == {"a-node1-x"}
    other.release()


def test_a_name_that_is_taken_is_left_alone() -> None:
    namespace.NAMED.mkdir()
    by_hand("one-node1")
    before = (namespace.NAMED / "one-node1").stat().st_ino
    ledger = Ledger.open_new("one")
    with pytest.raises(LabError, match="one-node1 exists already"):
        make(ledger, "node1")
    ledger.release()
    assert (namespace.NAMED / "one-node1").stat().st_ino == before


def test_a_name_that_is_taken_at_the_last_moment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open_new("one")
    write = Ledger.write

    def meanwhile(self: Ledger, act: str, **details: object) -> None:
        write(self, act, **details)
        if act == "making namespace":
            by_hand("one-node1")

    monkeypatch.setattr(Ledger, "write", meanwhile)
    with pytest.raises(LabError, match="one-node1 exists already"):
        make(ledger, "node1")
    ledger.release()
    assert names() == {"one-node1"}
    assert namespace.is_mounted(namespace.NAMED / "one-node1")


def test_a_name_that_is_somebody_elses_now_is_left_and_named() -> None:
    killed("one", "node1", "node2")
    path = namespace.NAMED / "one-node1"
    # The old namespace lives on here, so that the new one cannot have its inode number.
    old = os.open(path, os.O_RDONLY)
    syscalls.unmount(str(path))
    path.unlink()
    by_hand("one-node1")
    assert ledgers.sweep() == ledgers.Swept(("one",), ("one-node1",))
    assert names() == {"one-node1"}
    os.close(old)


def test_a_namespace_removed_by_hand_is_no_error() -> None:
    killed("one", "node1", "node2")
    path = namespace.NAMED / "one-node1"
    syscalls.unmount(str(path))
    path.unlink()
    assert ledgers.sweep() == ledgers.Swept(("one",), ())
    assert nothing_is_left()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_short_hides_no_other(cut: int) -> None:
    """A full disk cuts a line; the process is told, and its next line is read again."""
    ledger = Ledger.open_new("one")
    make(ledger, "node1")
    os.write(ledger._log, (b"\n" + json.dumps({"act": "making namespace", "role": "x", "name": "y"}).encode())[:cut])
    make(ledger, "node2")
    assert set(ledgers.labs()[0].namespaces()) == {"node1", "node2"}
    ledger.release()
    assert nothing_is_left()


@pytest.mark.parametrize("junk", [b"\xff\xfe\0", b"[1]\n", b"nonsense\n", b'{"act": "making na'])
def test_junk_in_a_ledger_keeps_no_lab_alive(junk: bytes) -> None:
    path = killed("one", "node1")
    with (path / "ledger").open("ab") as file:
        file.write(junk)
    assert ledgers.sweep().labs == ("one",)
    assert nothing_is_left()


def test_a_ledger_that_cannot_be_written_stops_the_act(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open_new("one")
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(ledger, "_log", full)
    with pytest.raises(LabError, match="cannot write the ledger"):
        make(ledger, "node1")
    assert names() == set()
    ledger.release()
    assert nothing_is_left()


@pytest.mark.parametrize("present", [(), ("lock",), ("lock", "ledger"), ("ledger",)])
def test_killed_while_its_directory_was_made_or_removed(present: tuple[str, ...]) -> None:
    path = ledgers.STATE / "one"
    path.mkdir(parents=True)
    for name in present:
        (path / name).touch()
    assert ledgers.sweep().labs == ("one",)
    assert nothing_is_left()


def test_killed_while_a_kept_lab_was_taken_down() -> None:
    """From the first step on it is a dead lab: a plain sweep finishes it."""
    path = killed("one", "node1")
    (path / "kept").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(namespace, "remove", lambda *_: True)  # gets no further than the first step
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        ledgers.remove("one")
    assert [(lab.id, lab.kept) for lab in ledgers.labs()] == [("one", False)]
    assert ledgers.sweep().labs == ("one",)
    assert nothing_is_left()


def test_what_cannot_be_removed_stays_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open_new("one")
    make(ledger, "node1", "node2")

    def refuse(path: str) -> None:
        if path.endswith("node2"):
            raise PermissionError(1, "Operation not permitted")
        unmount(path)

    unmount = syscalls.unmount
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "unmount", refuse)
        with pytest.raises(LabError, match="lab one is not gone") as caught:
            ledger.release()
        assert "one-node2: Operation not permitted" in caught.value.why
        assert names() == {"one-node2"}
        found = ledgers.sweep()
        assert (found.labs, len(found.stuck)) == ((), 1)
    assert ledgers.sweep().labs == ("one",)
    assert nothing_is_left()


def test_the_directory_of_others_stays() -> None:
    namespace.NAMED.mkdir()
    ledger = Ledger.open_new("one")
    make(ledger, "node1")
    ledger.release()
    assert namespace.NAMED.is_dir()


def test_a_lock_that_is_never_let_go_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "PATIENCE", 0.05)
    ledger = Ledger.open_new("one")
    with ledgers._state(), pytest.raises(LabError, match="has been locked for"):
        Ledger.open_new("two")
    ledger.release()


def test_a_kept_lab_is_attached_only_when_it_is_what_was_made() -> None:
    ledger = Ledger.open_new("one")
    make(ledger, "node1")
    ledger.keep()
    ledger.release()
    ledger = Ledger.open_existing("one")
    NetnsSubstrate.attached(ledger, {"node1": "one-node1"}).close()
    path = namespace.NAMED / "one-node1"
    old = os.open(path, os.O_RDONLY)
    syscalls.unmount(str(path))
    with pytest.raises(LabError, match="is gone"):
        NetnsSubstrate.attached(ledger, {"node1": "one-node1"})
    path.unlink()
    with pytest.raises(LabError, match="is gone"):
        NetnsSubstrate.attached(ledger, {"node1": "one-node1"})
    os.close(old)
    ledger.kept = False
    ledger.release()
    assert nothing_is_left()


def _come_and_go(number: int, rounds: int) -> None:
    for _ in range(rounds):
        ledger = Ledger.open_new(f"p{number}")
        make(ledger, "node1", "node2")
        mine = {f"p{number}-node1", f"p{number}-node2"}
        assert mine <= names(), "a sweep took a living lab's namespaces"
        ledger.release()
        assert not mine & names()


def test_sweeps_never_touch_labs_that_come_and_go() -> None:
    """Four processes come and go, and two threads sweep as fast as they can; the shared directories go and come too."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_come_and_go, args=(number, 12)) for number in range(4)]
    for worker in workers:
        worker.start()
    over = threading.Event()

    def sweeping() -> list[str]:
        swept: list[str] = []
        while not over.is_set():
            swept += ledgers.sweep().labs
        return swept

    with ThreadPoolExecutor(2) as pool:
        sweeps = [pool.submit(sweeping) for _ in range(2)]
        for worker in workers:
            worker.join(30)
        over.set()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert [sweep.result() for sweep in sweeps] == [[], []]
    assert nothing_is_left()


def test_ip_netns_sees_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ledger = Ledger.open_new()
    try:
        make(ledger, "node1")
        reported = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True, env=environment()).stdout
        assert f"{ledger.id}-node1" in reported
    finally:
        ledger.release()
