"""The bundles this machine keeps: one directory each with a bundle.json, and for an image its root file system.

And finding the bundle that a run asked for: the environment's first, then the store's, the newest that fits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from niclab.agents.bundle.model import Bundle, Kind, Product
from niclab.agents.drafts import draft
from niclab.cilium.version import Age, age
from niclab.errors import LabError, lab_error
from niclab.host import userns
from niclab.host.waiting import lock, locked

PATIENCE = 30.0
"""Seconds to wait for another niclab that is just renaming something in the store."""
_RECORD = "bundle.json"
_TEXTS = {"source": "source", "digest": "digest", "when": "when", "companion": "companion_digest"}
"""Key in a record → field of a bundle."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
_ANSWERS = 200
"""What programs said of themselves, of a few bytes each, that are kept; the oldest go."""


def home() -> Path:
    """`$NICLAB_HOME`, else root's /var/lib/niclab, else the user's own."""
    if chosen := os.environ.get("NICLAB_HOME"):
        return Path(chosen).absolute()
    return Path("/var/lib/niclab") if _is_root() else Path.home() / ".local/share/niclab"


def _is_root() -> bool:
    """In a user namespace everybody is root: who one is outside of it counts, or bundles are not found again."""
    if not userns.is_inside():
        return os.geteuid() == 0
    mapped = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first == "0" and outside == "0" for first, outside, _count in mapped)


def remembered(program: Path, question: str, ask: Callable[[], str]) -> str:
    """The answer of `ask` to a question about a program, asked once for each build. What `ask` raises is not kept.

    Cilium's agent needs a fifth of a second to tell its version, and a lab asks every bundle at hand which one it is.
    """
    try:
        found = program.stat()
    except OSError:
        return ask()
    # All that changes when a file is written or replaced, also by one of the same size and time.
    parts = (question, program, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    answers = home() / "said"
    place = answers / hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
    with contextlib.suppress(OSError):
        return place.read_text()
    answer = ask()
    with contextlib.suppress(OSError):
        answers.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(dir=answers)
        with os.fdopen(handle, "w") as file:
            file.write(answer)
        Path(new).rename(place)
        for old in sorted(answers.iterdir(), key=lambda path: path.stat().st_mtime)[:-_ANSWERS]:
            old.unlink(missing_ok=True)
    return answer


def place(product: Product) -> Path:
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


def records(product: Product) -> list[Bundle]:
    """Every bundle in the store, by name."""
    with lab_error(f"cannot read {place(product)}"):
        names = sorted(path.name for path in place(product).iterdir()) if place(product).exists() else []
    return [found for found in (record(product, name) for name in names) if found is not None]


def record(product: Product, name: str) -> Bundle | None:
    """A bundle as the store remembers it: see `usable`."""
    path = place(product) / name
    if not _NAME.fullmatch(name) or not path.is_dir():
        return None
    try:
        kept = json.loads((path / _RECORD).read_text())
        texts = {field: str(kept.get(key, "")) for key, field in _TEXTS.items()}
        kind: Kind = "image" if kept["kind"] == "image" else "directory"
        return Bundle(product, name, str(kept["version"]), Path(kept["path"]), kind, **texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Removed since the directory was listed.
        if not path.exists():
            return None
        why = f"{path / _RECORD} cannot be read: {error}"
        return Bundle(product, name, "", path, "image" if (path / "rootfs").exists() else "directory", problem=why)


def write_record(directory: Path, new: Bundle) -> None:
    """Leave `new` in the directory that is to become the bundle. Raises OSError."""
    new = replace(new, when=datetime.now(UTC).isoformat(timespec="seconds"))
    texts = {key: getattr(new, field) for key, field in _TEXTS.items()}
    kept = {"kind": new.kind, "version": new.version, "path": str(new.path), **texts}
    (directory / _RECORD).write_text(json.dumps(kept, indent=1) + "\n")


@contextlib.contextmanager
def work(product: Product) -> Iterator[Path]:
    """A directory to make a bundle in, gone afterwards. Raises LabError when it cannot be written, or is full."""
    try:
        place(product).mkdir(parents=True, exist_ok=True)
        # An image holds setuid programs; nobody else on this machine shall reach them.
        place(product).parent.chmod(0o700)
        with draft(place(product)) as directory:
            yield directory
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise LabError(
            f"cannot write {error.filename or home()}",
            why=error.strerror or str(error),
            fix=f"{'free some space, or ' if full else ''}let NICLAB_HOME "
            + ("point to where there is more" if full else "name a directory of yours"),
        ) from None


def publish(made: Path, new: Bundle) -> None:
    """Let the directory `made`, in a work directory, become the bundle `new`.

    The same again is no error. Raises LabError when another bundle has that name.
    """
    write_record(made, new)
    with _renaming(new.product) as store:
        target = store / new.name
        old = record(new.product, new.name)
        if old is not None and not old.problem:
            if (old.kind, old.path, old.digest) != (new.kind, new.path, new.digest):
                raise taken(old)
            if new.kind == "image":
                return
        if old is not None:
            target.rename(made.with_name("replaced"))
        made.rename(target)


def taken(old: Bundle) -> LabError:
    return LabError(
        f"there is a {old.product.title} bundle {old.name!r} already",
        why=f"it is version {old.version}, from {old.source}, {old.digest or 'a directory'}",
        fix=f"niclab {old.product.name} rm {old.name}, or give the new one another name",
    )


def remove(product: Product, name: str) -> Bundle:
    """Forget a bundle, and remove what the store made of it: never a directory that was added.

    Raises LabError when there is none, or when a lab uses it.
    """
    found = record(product, name)
    if found is None:
        names = ", ".join(known.name for known in records(product)) or "none"
        raise LabError(
            f"there is no {product.title} bundle {name!r} in the store",
            why=f"bundles in {place(product)}: {names}",
            fix=f"niclab {product.name} ls",
        )
    with work(product) as directory, _renaming(product) as store:
        try:
            with locked(store / name, 0):
                (store / name).rename(directory / "removed")
        except BlockingIOError:
            raise LabError(f"the {product.title} bundle {name!r} is in use by a lab", fix="niclab ls") from None
    return found


@contextlib.contextmanager
def held(bundle: Bundle) -> Iterator[tuple[int, ...]]:
    """Keep a bundle from being removed as long as it is in use. Raises LabError when it has gone already.

    It stays held for as long as a process has the descriptor that is yielded (none for a directory bundle).
    """
    if bundle.root is None:
        yield ()
        return
    try:
        handle = lock(bundle.path, fcntl.LOCK_SH)
    except FileNotFoundError:
        raise LabError(f"cannot use the bundle {bundle.name}", why=f"{bundle.path} is gone") from None
    try:
        yield (handle,)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _renaming(product: Product) -> Iterator[Path]:
    """The product's part of the store, for this process alone. Raises OSError, and LabError when others keep it."""
    file = place(product) / ".lock"
    file.touch(0o600)
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(locked(file, PATIENCE))
        except BlockingIOError:
            why = "another niclab uses it"
            raise LabError(f"{place(product)} has been locked for {PATIENCE:g} s", why=why) from None
        yield place(product)


def environment(product: Product) -> list[Bundle]:
    """What the product's variable names; an entry that is wrong has a `problem`, others see `usable`."""
    found: list[Bundle] = []
    for entry in filter(None, os.environ.get(product.variable, "").split(os.pathsep)):
        path = Path(entry).absolute()
        named = None if os.sep in entry else record(product, entry)
        name, problem = path.name, ""
        if any(name == other.name for other in found):
            named, problem = None, f"{product.variable} has two entries of this name"
        elif named is None and not path.is_dir():
            name, problem = entry, "neither a directory nor a bundle of the store"
        found.append(named or Bundle(product, name, "", path, "directory", product.variable, problem=problem))
    return found


def directory(product: Product, name: str, path: Path) -> Bundle:
    """The bundle that a directory is, read anew: it may have been built again. Raises LabError when it is none, or its
    program does not run."""
    if not path.is_dir():
        raise LabError(
            f"{path} is not a directory",
            why=f"a directory bundle holds {product.holds}",
            fix=f"niclab {product.name} load is for archives" if path.is_file() else product.ways(),
        )
    unread = Bundle(product, name, "", path.absolute(), "directory")
    if lacking := unread.missing():
        raise LabError(
            f"{path} is no {product.title} bundle",
            why=f"missing: {', '.join(lacking)}",
            fix=f"it holds {product.holds}",
        )
    program = unread.required(product.program)
    version = remembered(program, "version", lambda: unread.printed_version(program))
    return Bundle(product, name, version, unread.path, "directory")


def usable(bundle: Bundle) -> Bundle:
    """A bundle as it is now. Raises LabError when it cannot be used."""
    product, name = bundle.product, bundle.name
    if bundle.problem:
        raise LabError(f"the {product.title} bundle {name!r} cannot be used", why=bundle.problem)
    if bundle.kind == "directory":
        return directory(product, name, bundle.path)
    if lacking := bundle.missing():
        raise LabError(
            f"the {product.title} bundle {name!r} is broken",
            why=f"missing in it: {', '.join(lacking)}",
            fix=f"niclab {product.name} rm {name}, and pull or load it again",
        )
    return bundle


def find(product: Product, wanted: str | None = None) -> Bundle:
    """The newest bundle that has this name, this version or this minor version; without `wanted` the newest.

    Those of the product's variable (directories and names, with `:` between) come before the store's. Raises LabError.
    """
    listed: list[str] = []
    for by_hand, known in ((True, environment(product)), (False, records(product))):
        fitting: list[Bundle] = []
        # A name is meant more exactly than a version; and it saves asking all the others for theirs.
        for kept in [kept for kept in known if kept.name == wanted] or known:
            try:
                bundle = usable(kept)
            except LabError as error:
                # One that was asked for by name, or named in the environment, must not be passed over silently.
                if kept.name == wanted or by_hand:
                    raise
                listed.append(f"{kept.name} ({error.why or error.what})")
                continue
            listed.append(bundle.name if bundle.name == bundle.version else f"{bundle.name} ({bundle.version})")
            if wanted in (None, bundle.name) or str(wanted).removeprefix("v") in (bundle.version, bundle.minor):
                fitting.append(bundle)
        if fitting:
            return max(fitting, key=_rank)
    which = f" {wanted}" if wanted else ""
    raise LabError(
        f"there is no{which} bundle of {product.title} on this machine",
        why=f"{product.variable} is {os.environ.get(product.variable) or 'not set'}; "
        f"found: {', '.join(listed) or f'none in {place(product)}'}",
        fix=product.ways(),
    )


def every(product: Product) -> tuple[Bundle, ...]:
    """Every bundle that can be used, newest first, a name once. Raises LabError when the variable is wrong."""
    found: dict[str, Bundle] = {}
    for kept in records(product):
        with contextlib.suppress(LabError):
            found[kept.name] = usable(kept)
    found |= {named.name: usable(named) for named in environment(product)}
    return tuple(sorted(found.values(), key=_rank, reverse=True))


def _rank(bundle: Bundle) -> tuple[Age, bool]:
    """Newer is better; of one version that is which has its companion."""
    return age(bundle.version), bundle.companion is not None
