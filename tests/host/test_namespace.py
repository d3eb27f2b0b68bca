"""Names of network namespaces, shared with `ip netns` and with whoever else makes some."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from niclab.errors import LabError
from niclab.host import ledgers, namespace, syscalls
from niclab.host.ledgers import Ledger
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import run
from niclab.net.operation import AddNamespace

from tests.support import arena

pytestmark = arena.able


def lab(lab_id: str = "one") -> Ledger:
    ledger = Ledger.open_new(lab_id)
    substrate = NetnsSubstrate(ledger)
    substrate.apply([AddNamespace("node1"), AddNamespace("node2")])
    substrate.close()
    ledger.keep()
    return ledger


def lab_without_a_shared_mount() -> Ledger:
    """As the lab was up to version 0.1: its names are mounts in a plain directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(namespace, "prepare", lambda _: namespace.NAMED.mkdir())
        return lab()


def names() -> set[str]:
    return {path.name for path in namespace.NAMED.glob("*")}


def mounted() -> list[str]:
    return [one.point for one in syscalls.mounted_at(str(namespace.NAMED)) if one.point != str(namespace.NAMED)]


def is_alive(name: str) -> bool:
    return run(["ip", "-n", name, "-o", "link", "show", "lo"]).startswith("1: lo")


@pytest.mark.parametrize("make", [lab, lab_without_a_shared_mount])
@pytest.mark.parametrize("end", [lambda: ledgers.remove("one"), lambda: ledgers.sweep(kept=True)])
def test_a_name_made_by_ip_netns_keeps_no_lab(make: Callable[[], Ledger], end: Callable[[], object]) -> None:
    def work() -> None:
        ledger = make()
        run(["ip", "netns", "add", "x"])
        ledger.release()
        assert names() == {"one-node1", "one-node2", "x"}
        end()
        assert names() == {"x"}
        assert mounted() == [f"{namespace.NAMED}/x"]
        assert is_alive("x")
        assert ledgers.labs() == []
        run(["ip", "netns", "delete", "x"])
        assert names() == set()

    arena.in_arena(work)


def test_a_lab_beside_a_name_of_ip_netns_leaves_it_alone() -> None:
    def work() -> None:
        run(["ip", "netns", "add", "x"])
        before = arena.remains()
        lab().release()
        ledgers.remove("one")
        assert arena.differences(before, arena.remains()) == ""
        assert is_alive("x")

    arena.in_arena(work)


def test_a_name_made_without_a_shared_mount_can_be_removed_after_a_lab_came_and_went() -> None:
    """Were the mount made over it, it would be mounted twice."""

    def work() -> None:
        namespace.NAMED.mkdir()
        theirs = namespace.NAMED / "theirs"
        theirs.touch()
        with syscalls.home_restored():
            syscalls.unshare_network()
            namespace.bind_current(theirs)
        before = arena.remains()
        ledger = lab()
        assert mounted().count(str(theirs)) == 1
        ledger.release()
        ledgers.remove("one")
        assert arena.differences(before, arena.remains()) == ""
        syscalls.unmount(str(theirs))
        theirs.unlink()

    arena.in_arena(work)


def test_the_directory_goes_with_the_last_lab_unless_others_have_names_in_it() -> None:
    def work() -> tuple[bool, bool]:
        for lab_id in ("one", "two"):
            lab(lab_id).release()
        ledgers.remove("one")
        between = namespace.NAMED.exists()
        ledgers.remove("two")
        return between, namespace.NAMED.exists()

    assert arena.in_arena(work) == (True, False)


def test_a_directory_that_somebody_holds_locked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "_PATIENCE", 0.05)

    def work() -> None:
        namespace.NAMED.mkdir()
        handle = os.open(namespace.NAMED, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="cannot have names in /run/netns"):
            lab()
        os.close(handle)

    arena.in_arena(work)


def test_mounts_of_any_name_are_read() -> None:
    def work() -> list[tuple[bool, str, bool]]:
        strange = Path("/run/a b\\c\t\u00e4")
        strange.mkdir()
        syscalls.mount("tmpfs", str(strange), "tmpfs")
        [mount] = [one for one in syscalls.mounts() if one.point.startswith("/run/a")]
        return [(mount.point == str(strange), mount.kind, mount.shared)]

    assert arena.in_arena(work) == [(True, "tmpfs", False)]
