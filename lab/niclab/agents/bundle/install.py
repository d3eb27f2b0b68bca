"""Putting bundles into the store: a directory that is there, an image in an archive, an image in a registry."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from niclab.agents.bundle import archive, reference, store, tools
from niclab.agents.bundle.memory import remembered
from niclab.agents.bundle.model import ROOTFS, Bundle, Product
from niclab.agents.bundle.reference import Reference
from niclab.agents.bundle.rootfs import inside, read_version
from niclab.agents.bundle.source import Say, source
from niclab.agents.bundle.store import Record
from niclab.cilium.version import minor_of
from niclab.errors import LabError

B = TypeVar("B", bound=Bundle)

_KERNELS_OWN = ("proc", "sys", "dev", "run")
"""What the lab mounts in an image's root file system."""


def _silently(_: str) -> None: ...


def directory(product: Product[B], name: str, path: Path) -> B:
    """The bundle that a directory is. Raises LabError when it is none, or its program does not run."""
    if not path.is_dir():
        raise LabError(
            f"{path} is not a directory",
            why=f"a directory bundle holds {product.holds}",
            fix=f"niclab {product.name} load is for archives" if path.is_file() else product.ways(),
        )
    absolute = path.absolute()
    unread = product.make(name, "", absolute, "directory")
    if lacking := unread.missing():
        raise LabError(
            f"{path} is no {product.title} bundle",
            why=f"missing: {', '.join(lacking)}",
            fix=f"it holds {product.holds}",
        )
    program = absolute / "bin" / product.program
    version = remembered(program, "version", lambda: read_version(program, root=None))
    return product.make(name, version, absolute, "directory")


def add(product: Product[B], name: str, path: Path) -> B:
    """Remember a directory under a name; nothing is copied. Raises LabError."""
    bundle = directory(product, store.check_name(name), path)
    with store.work(product) as work:
        made = work / "bundle"
        made.mkdir()
        record = Record(name, "directory", bundle.version, bundle.path, source=str(bundle.path))
        store.publish(product, made, record)
    return bundle


def load(
    product: Product[B], path: Path, *, name: str | None = None, companion: Path | None = None, say: Say = _silently
) -> B:
    """Unpack an archive made by `docker save` or an OCI archive; its companion may be in it, or in another.

    Raises LabError.
    """
    _check_early(name)
    with store.work(product) as work:
        main, beside = _chosen(product, path, work / "archive")
        if companion is not None:
            beside = _only(companion, work / "second")
        say(f"unpacking {main.title}")
        return _install(
            product,
            work,
            (_from_archive(main, work / "main"), _from_archive(beside, work / "beside") if beside else None),
            name=name,
            source_=str(path.absolute()),
        )


def pull(
    product: Product[B],
    wanted: str,
    *,
    name: str | None = None,
    digest: str | None = None,
    companion: str | None = None,
    say: Say = _silently,
) -> B:
    """Fetch and unpack a version, or any image, with its companion (`companion`: its reference; "" for none).

    `digest`: what the image's must be. A version that is in the store already is not fetched again. Raises LabError.
    """
    main = reference.parse(product, wanted, digest=digest)
    beside = _companion(product, main, companion)
    if main.version is not None and (standing := store.record(product, name or main.version)) is not None:
        same = standing.kind == "image" and standing.version == main.version and not standing.problem
        if not same or (digest is not None and digest != standing.digest):
            raise store.taken(product, standing)
        return product.make(standing.name, standing.version, standing.path, "image")
    _check_early(name)
    with store.work(product) as work:
        fetched = _fetch(product, main, work / "main", say)
        fetched_beside = _fetch_companion(product, beside, work / "beside", say) if beside else None
        return _install(product, work, (fetched, fetched_beside), name=name, source_=str(main), expected=main.version)


def _check_early(name: str | None) -> None:
    """What can be known before minutes of fetching."""
    if name is not None:
        store.check_name(name)
    tools.require()


def _companion(product: Product[Any], main: Reference, given: str | None) -> Reference | None:
    if given is None:
        return reference.companion(product, main)
    return reference.parse(product, given) if given else None


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An image, unpacked and still without a name; `digest` is of its manifest."""

    root: Path
    digest: str


def _images(path: Path, work: Path) -> list[archive.Image]:
    work.mkdir()
    return archive.images(archive.laid_out(path, work), path)


def _chosen(product: Product[Any], path: Path, work: Path) -> tuple[archive.Image, archive.Image | None]:
    """The product's image in an archive, and its companion's. Raises LabError when there are others."""
    found = _images(path, work)
    if len(found) == 1:
        return found[0], None
    beside = [image for image in found if any(product.companion.mark in part for part in image.last_parts())]
    main = [image for image in found if image not in beside]
    if len(main) != 1 or len(beside) != 1:
        raise LabError(
            f"{path} holds {len(found)} images",
            why="; ".join(image.title for image in found) or "it is empty",
            fix=f"save the image of {product.program} alone, or with that of its {product.companion.noun}",
        )
    return main[0], beside[0]


def _only(path: Path, work: Path) -> archive.Image:
    found = _images(path, work)
    if len(found) != 1:
        raise LabError(f"{path} holds {len(found)} images", fix="save one image in an archive")
    return found[0]


def _from_archive(image: archive.Image, work: Path) -> _Fetched:
    work.mkdir()
    try:
        tools.copy(image.reference, work / "layout")
        return _unpacked(work)
    except LabError as error:
        raise LabError(f"cannot unpack {image.title}", why=error.why, fix=error.fix) from None


def _fetch(product: Product[Any], wanted: Reference, work: Path, say: Say) -> _Fetched:
    """Raises LabError: one that names every other way, for the commonest reason is a machine without a network."""
    work.mkdir()
    say(f"pulling {wanted}")
    try:
        with source(wanted) as asked:
            digest = asked.digest(wanted)
            if not wanted.digest or digest == wanted.digest:
                asked.copy(wanted, digest, work / "layout")
    except LabError as error:
        raise LabError(f"cannot pull {wanted}", why=error.why, fix=error.fix or product.ways()) from None
    if wanted.digest and digest != wanted.digest:
        raise LabError(
            f"{wanted} is not the image that was asked for",
            why=f"its digest is {digest}, not {wanted.digest}",
            fix=f"find out why first; what has that digest is {wanted.name}@{wanted.digest}",
        )
    say(f"unpacking {wanted}")
    return _Fetched(_unpacked(work).root, digest)


def _fetch_companion(product: Product[Any], wanted: Reference, work: Path, say: Say) -> _Fetched:
    try:
        return _fetch(product, wanted, work, say)
    except LabError as error:
        noun = product.companion.noun
        fix = f"say where it is with --{noun} IMAGE, or do without: --no-{noun}"
        raise LabError(error.what, why=error.why, fix=fix) from None


def _unpacked(work: Path) -> _Fetched:
    digest = tools.digest_of(f"oci:{work / 'layout'}:image")
    root = tools.unpack(work / "layout", work / "unpacked")
    store.erase(work / "layout")
    return _Fetched(root, digest)


def _install(
    product: Product[B],
    work: Path,
    images: tuple[_Fetched, _Fetched | None],
    *,
    name: str | None,
    source_: str,
    expected: str | None = None,
) -> B:
    """Check what was unpacked, and let it become a bundle of the store."""
    main, beside = images
    made = work / "bundle"
    made.mkdir()
    main.root.rename(made / ROOTFS)
    _check(product, made, source_)
    if beside is not None:
        _merge(product, beside, made)
    found = _version(product, made)
    if expected is not None and found != expected:
        raise LabError(f"{source_} holds {product.title} {found}", why=f"{expected} was asked for")
    if beside is not None:
        _check_companion(product, made, found)
    chosen = store.check_name(name or found)
    path = store.place(product) / chosen
    record = Record(
        chosen, "image", found, path, source_, digest=main.digest, companion=beside.digest if beside else ""
    )
    store.publish(product, made, record)
    return product.make(chosen, found, path, "image")


def _check(product: Product[Any], made: Path, title: str) -> None:
    root = made / ROOTFS
    if lacking := product.make("", "", made, "image").missing():
        raise LabError(
            f"{title} is no image of {product.title}",
            why=f"missing in it: {', '.join(lacking)}",
            fix=f"{product.repository}:v{product.example} is one",
        )
    # A mount follows links, and as the host does: out of the image.
    linked = [name for name in _KERNELS_OWN if (root / name).is_symlink()]
    if linked:
        raise LabError(f"{title} cannot be used", why=f"/{linked[0]} is a symbolic link in it")


def _merge(product: Product[Any], beside: _Fetched, made: Path) -> None:
    """Put the companion's program into the product's root file system: it is one static file, so one root will do."""
    companion = product.companion
    path = product.make("", "", beside.root.parent, "image").program(*companion.programs)
    found = inside(beside.root, path) if path is not None else None
    main = product.make("", "", made, "image").program(product.program)
    target = inside(made / ROOTFS, main.parent) if main is not None else None
    if found is None or target is None:
        raise LabError(
            f"this is no image of {companion.noun}",
            why=f"missing in it: {companion.programs[0]}",
            fix=f"--{companion.noun} IMAGE",
        )
    # Copied outside the image first: a link that lies in it must not be written through.
    fresh = made.with_name("companion")
    shutil.copyfile(found, fresh)
    fresh.chmod(0o755)
    fresh.replace(target / companion.programs[0])


def _version(product: Product[Any], made: Path) -> str:
    path = product.make("", "", made, "image").program(product.program)
    assert path is not None, "checked"
    return read_version(path, root=made / ROOTFS)


def _check_companion(product: Product[Any], made: Path, found: str) -> None:
    """Raises LabError when it does not run, or is of another minor version where both have the same numbers."""
    path = product.make("", "", made, "image").program(*product.companion.programs)
    assert path is not None, "merged"
    its = read_version(path, root=made / ROOTFS)
    if product.companion.derived and minor_of(its) != minor_of(found):
        raise LabError(
            f"the {product.companion.noun} is not of this {product.title}",
            why=f"it is {its}, {product.program} is {found}",
            fix=f"--{product.companion.noun} IMAGE",
        )
