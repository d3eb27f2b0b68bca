"""Prepared data is there whole or not at all, whoever is killed while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from niclab.agents.controlplane import prepared
from niclab.agents.controlplane.prepared import Store
from niclab.errors import LabError

MIB = 1 << 20


def made(path: Path, word: bytes = b"x") -> Path:
    """Something like etcd's directory: a log with much space behind its data, one of the next, a database."""
    for name in ("member/wal", "member/snap"):
        (path / name).mkdir(parents=True)
    with (path / "member/wal/0.wal").open("wb") as log:
        log.write(word * 5000)
        os.posix_fallocate(log.fileno(), 0, 16 * MIB)
    (path / "member/wal/1.tmp").write_bytes(bytes(MIB))
    (path / "member/snap/db").write_bytes(bytes(3 * MIB) + word * 7 + bytes(100))
    return path


def files(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_what_is_saved_is_restored(tmp_path: Path) -> None:
    store, data = Store(tmp_path), made(tmp_path / "data")
    assert not store.restore("key", tmp_path / "lab")
    assert store.save("key", data)
    assert store.restore("key", tmp_path / "lab")
    wanted = files(data)
    del wanted["member/wal/1.tmp"]
    assert files(tmp_path / "lab") == wanted
    assert {path.name for path in (tmp_path / "prepared").rglob("*")} >= {"key", "0.wal", "db"}
    assert list((tmp_path / "prepared").iterdir()) == [tmp_path / "prepared/key"]


def test_zeros_take_no_space(tmp_path: Path) -> None:
    Store(tmp_path).save("key", made(tmp_path / "data"))
    blocks = sum(one.stat().st_blocks for one in (tmp_path / "prepared").rglob("*") if one.is_file())
    assert blocks * 512 < 3 * MIB


def test_the_second_to_save_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.save("key", made(tmp_path / "one", b"1"))
    assert store.save("key", made(tmp_path / "two", b"2"))
    store.restore("key", tmp_path / "lab")
    assert (tmp_path / "lab/member/wal/0.wal").read_bytes()[:1] == b"1"
    assert len(list((tmp_path / "prepared").iterdir())) == 1


def test_discarded_data_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.discard("never there")
    store.save("key", made(tmp_path / "data"))
    store.discard("key")
    assert not store.restore("key", tmp_path / "lab")
    assert list((tmp_path / "prepared").iterdir()) == []


def test_only_what_was_used_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_KEPT", 2)
    store, data = Store(tmp_path), made(tmp_path / "data")
    for number, name in enumerate(("old", "used", "new")):
        store.save(name, data)
        os.utime(tmp_path / "prepared" / name, (number, number))
        store.restore("used", tmp_path / f"lab{number}")
    store.save("newest", data)
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == {"used", "newest"}


def test_a_home_that_cannot_be_written_costs_the_copy_only(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert not Store(tmp_path / "home").save("key", made(tmp_path / "data"))
    assert not Store(tmp_path / "home").restore("key", tmp_path / "lab")


def test_a_full_lab_directory_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("key", made(tmp_path / "data"))
    (tmp_path / "lab").mkdir()
    with pytest.raises(LabError, match="cannot copy"):
        store.restore("key", tmp_path / "lab")


_KILLED = """
import os, signal, sys
from pathlib import Path
from niclab.agents.controlplane import prepared
steps = 0
def dying(act):
    def step(*arguments, **keywords):
        global steps
        steps += 1
        if steps == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*arguments, **keywords)
    return step
for name in ("fsync", "close", "open"):
    setattr(os, name, dying(getattr(os, name)))
prepared._copy_file = dying(prepared._copy_file)
Path.rename = dying(Path.rename)
prepared.Store(Path(sys.argv[1])).save("key", Path(sys.argv[2]))
"""


def test_killed_anywhere_it_is_whole_or_not_there(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    deaths = 0
    for step in range(1, 100, 4):
        home = tmp_path / f"home{step}"
        arguments = [sys.executable, "-c", _KILLED, str(home), str(data), str(step)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        deaths += done.returncode == -signal.SIGKILL
        store = Store(home)
        if store.restore("key", tmp_path / f"lab{step}"):
            assert files(tmp_path / f"lab{step}")["member/snap/db"] == files(data)["member/snap/db"]
        assert store.save("other", data)
        assert {path.name for path in (home / "prepared").iterdir()} <= {"key", "other"}, "the dead one's draft is left"
        if done.returncode == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert deaths > 3


def test_keys_tell_apart_what_matters() -> None:
    base = {"server": "a", "features": ["x"]}
    assert prepared.key(base) == prepared.key(dict(reversed(base.items())))
    assert prepared.key(base) != prepared.key({**base, "features": ["x", "y"]})
    assert prepared.key(base).isalnum()


def test_a_build_is_known_by_its_file(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("one")
    before = prepared.fingerprint(program)
    assert prepared.fingerprint(program) == before
    program.write_text("other")
    assert prepared.fingerprint(program) != before
    with pytest.raises(LabError, match="cannot read"):
        prepared.fingerprint(tmp_path / "none")
