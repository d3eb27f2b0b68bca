"""The bundles this machine keeps: one directory each with a bundle.json, and for an image its root file system.

A bundle is made in a work directory beside the others and renamed when it is whole, so there are no halves. A work
directory belongs to whoever holds the lock in it; the lock dies with its process, and the next call removes the rest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from niclab.agents.bundle.model import Bundle, Kind, Product
from niclab.errors import LabError
from niclab.host import userns
from niclab.host.waiting import try_until

PATIENCE = 30.0
"""Seconds to wait for another niclab that is just renaming something in the store."""
_RECORD = "bundle.json"
_WORK = ".work-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of one bundle. `problem` says why it cannot be used, and is empty otherwise.

    `digest`: of the manifest that was pulled, or that was made of a loaded archive; `companion`: its companion's.
    """

    name: str
    kind: Kind
    version: str
    path: Path
    source: str
    digest: str = ""
    when: str = ""
    companion: str = ""
    problem: str = ""


def home() -> Path:
    """`$NICLAB_HOME`, else root's /var/lib/niclab, else the user's own."""
    if chosen := os.environ.get("NICLAB_HOME"):
        return Path(chosen).absolute()
    return Path("/var/lib/niclab") if _is_root() else Path.home() / ".local/share/niclab"


def _is_root() -> bool:
    """In a user namespace everybody is root: who one is outside of it counts, or bundles are not found again."""
    if not userns.is_inside():
        return os.geteuid() == 0
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, outside, _count = line.split()
        if first == "0":
            return outside == "0"
    return False


def place(product: Product[Any]) -> Path:
    return home() / "bundles" / product.name


def check_name(name: str) -> str:
    """`name` itself. Raises LabError when a bundle cannot be called so."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} cannot be the name of a bundle",
            why="it becomes the name of a directory",
            fix="1 to 63 of A-Z, a-z, 0-9 and . _ + -, with a letter or digit in front",
        )
    return name


def records(product: Product[Any]) -> list[Record]:
    """Every bundle in the store, by name."""
    try:
        found = sorted(path for path in place(product).iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LabError(f"cannot read {place(product)}", why=error.strerror or str(error)) from None
    read = (_read(path) for path in found)
    return [record for record in read if record is not None]


def record(product: Product[Any], name: str) -> Record | None:
    path = place(product) / name
    return _read(path) if _NAME.fullmatch(name) and path.is_dir() else None


def _read(path: Path) -> Record | None:
    try:
        told = json.loads((path / _RECORD).read_text())
        texts = {key: str(told.get(key, "")) for key in ("source", "digest", "when", "companion")}
        kind: Kind = "image" if told["kind"] == "image" else "directory"
        return Record(path.name, kind, str(told["version"]), Path(told["path"]), **texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Removed since the directory was listed.
        if not path.exists():
            return None
        why = f"{path / _RECORD} cannot be read: {error}"
        return Record(path.name, "image" if (path / "rootfs").exists() else "directory", "", path, "", problem=why)


def write_record(directory: Path, record: Record) -> None:
    """Leave `record` in the directory that is to become the bundle. Raises OSError."""
    told = asdict(record) | {"path": str(record.path), "when": datetime.now(UTC).isoformat(timespec="seconds")}
    del told["problem"], told["name"]
    (directory / _RECORD).write_text(json.dumps(told, indent=1) + "\n")


@contextmanager
def work(product: Product[Any]) -> Iterator[Path]:
    """A directory to make a bundle in, gone afterwards. Raises LabError when it cannot be written, or is full."""
    held: list[int] = []
    directory: Path | None = None
    try:
        with _locked(product) as store:
            abandoned = _abandoned(store, held)
            directory = Path(tempfile.mkdtemp(prefix=_WORK, dir=store))
            held.append(_lock(directory / "lock", fcntl.LOCK_EX))
        for path in abandoned:
            erase(path)
        yield directory
    except OSError as error:
        fix = "free some space, or let NICLAB_HOME point to where there is more"
        raise LabError(
            f"cannot write {error.filename or home()}",
            why=error.strerror or str(error),
            fix=fix if error.errno in (errno.ENOSPC, errno.EDQUOT) else "let NICLAB_HOME name a directory of yours",
        ) from None
    finally:
        if directory is not None:
            erase(directory)
        for handle in held:
            os.close(handle)


def publish(product: Product[Any], made: Path, record: Record) -> None:
    """Let the directory `made`, in a work directory, become the bundle of `record`.

    The same again is no error. Raises LabError when another bundle has that name.
    """
    write_record(made, record)
    with _locked(product) as store:
        target = store / record.name
        standing = _read(target)
        if standing is not None and not standing.problem:
            if (standing.kind, standing.path) != (record.kind, record.path) or standing.digest != record.digest:
                raise taken(product, standing)
            if record.kind == "image":
                return
        if standing is not None:
            target.rename(made.with_name("replaced"))
        made.rename(target)


def taken(product: Product[Any], standing: Record) -> LabError:
    return LabError(
        f"there is a {product.title} bundle {standing.name!r} already",
        why=f"it is version {standing.version}, from {standing.source}, {standing.digest or 'a directory'}",
        fix=f"niclab {product.name} rm {standing.name}, or give the new one another name",
    )


def remove(product: Product[Any], name: str) -> Record:
    """Forget a bundle, and remove what the store made of it: never a directory that was added.

    Raises LabError when there is none, or when a lab uses it.
    """
    found = record(product, name)
    if found is None:
        names = ", ".join(each.name for each in records(product)) or "none"
        raise LabError(
            f"there is no {product.title} bundle {name!r} in the store",
            why=f"bundles in {place(product)}: {names}",
            fix=f"niclab {product.name} ls",
        )
    with work(product) as directory, _locked(product) as store:
        try:
            handle = _lock(store / name, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_DIRECTORY)
        except BlockingIOError:
            raise LabError(f"the {product.title} bundle {name!r} is in use by a lab", fix="niclab ls") from None
        os.close(handle)
        (store / name).rename(directory / "removed")
    return found


@contextmanager
def held(bundle: Bundle) -> Iterator[tuple[int, ...]]:
    """Keep a bundle from being removed as long as it is in use. Raises LabError when it has gone already.

    It stays held for as long as a process has the descriptor that is yielded (none for a directory bundle).
    """
    if bundle.root is None:
        yield ()
        return
    try:
        handle = _lock(bundle.path, fcntl.LOCK_SH, os.O_DIRECTORY)
    except OSError as error:
        raise LabError(f"cannot use the bundle {bundle.name}", why=error.strerror or str(error)) from None
    try:
        yield (handle,)
    finally:
        os.close(handle)


def _lock(path: Path, how: int, opening: int = os.O_CREAT) -> int:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | opening, 0o600)
    try:
        fcntl.flock(handle, how)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def _locked(product: Product[Any]) -> Iterator[Path]:
    """The product's part of the store, for this process alone. Raises OSError, and LabError when others keep it."""
    store = place(product)
    store.mkdir(parents=True, exist_ok=True)
    # An image holds setuid programs; nobody else on this machine shall reach them.
    store.parent.chmod(0o700)
    try:
        handle = _locked_within_patience(store)
    except BlockingIOError:
        raise LabError(f"{store} has been locked for {PATIENCE:g} s", why="another niclab uses it") from None
    try:
        yield store
    finally:
        os.close(handle)


def _locked_within_patience(store: Path) -> int:
    lock = functools.partial(_lock, store / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    return try_until(lock, PATIENCE, retry=BlockingIOError, every=0.02)


def _abandoned(store: Path, held: list[int]) -> list[Path]:
    """Work directories whose process has gone; their locks are ours from now on."""
    found = []
    for path in store.glob(f"{_WORK}*"):
        with contextlib.suppress(OSError):
            held.append(_lock(path / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            found.append(path)
    return found


def erase(path: Path) -> None:
    """Remove a tree, also one with directories that their owner may not write, as images have them."""
    for directory, children, _files in os.walk(path):
        for child in children:
            below = Path(directory, child)
            if not below.is_symlink():
                with contextlib.suppress(OSError):
                    below.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
