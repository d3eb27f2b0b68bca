"""Putting bundles into the store: a directory that is there, an image in an archive, an image in a registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from niclab.agents.bundle import images, store
from niclab.agents.bundle.images import Archived, Reference
from niclab.agents.bundle.model import ROOTFS, Bundle, Product
from niclab.agents.drafts import erase
from niclab.cilium.version import minor_of
from niclab.errors import LabError

Say = Callable[[str], object]


def _silently(_: str) -> None: ...


_KERNELS_OWN = ("proc", "sys", "dev", "run")
"""What the lab mounts in an image's root file system."""


def add(product: Product, name: str, path: Path) -> Bundle:
    """Remember a directory under a name; nothing is copied. Raises LabError."""
    bundle = store.directory(product, store.check_name(name), path)
    with store.work(product) as work:
        made = work / "bundle"
        made.mkdir()
        store.publish(made, replace(bundle, source=str(bundle.path)))
    return bundle


def load(
    product: Product, path: Path, *, name: str | None = None, companion: Path | None = None, say: Say = _silently
) -> Bundle:
    """Unpack an archive made by `docker save` or an OCI archive; its companion may be in it, or in another.

    Raises LabError.
    """
    _check_early(name)
    with store.work(product) as work:
        main, beside = _chosen(product, path, work / "archive")
        if companion is not None:
            second = images.in_archive(companion, work / "second")
            if len(second) != 1:
                raise LabError(f"{companion} holds {len(second)} images", fix="save one image in an archive")
            beside = second[0]
        say(f"unpacking {main.title}")
        origin = str(path.absolute())
        unpacked = _from_archive(product, main, work / "main", origin)
        unpacked_beside = _from_archive(product, beside, work / "beside", origin) if beside else None
        return _install(work, unpacked, unpacked_beside, name=name)


def pull(
    product: Product,
    wanted: str,
    *,
    name: str | None = None,
    digest: str | None = None,
    companion: str | None = None,
    say: Say = _silently,
) -> Bundle:
    """Fetch and unpack a version, or any image, with its companion (`companion`: its reference; "" for none).

    `digest`: what the image's must be. A version that is in the store already is not fetched again. Raises LabError.
    """
    main = images.parse(product, wanted, digest=digest)
    beside = images.parse(product, companion) if companion else None
    if companion is None:
        beside = images.companion(product, main)
    if main.version is not None and (old := store.record(product, name or main.version)) is not None:
        same = old.kind == "image" and old.version == main.version and not old.problem
        if not same or (digest is not None and digest != old.digest):
            raise store.taken(old)
        return old
    _check_early(name)
    with store.work(product) as work:
        unpacked, unpacked_beside = _fetch(product, main, work / "main", say), None
        if beside is not None:
            try:
                unpacked_beside = _fetch(product, beside, work / "beside", say)
            except LabError as error:
                noun = product.companion.noun
                fix = f"say where it is with --{noun} IMAGE, or do without: --no-{noun}"
                raise LabError(error.what, why=error.why, fix=fix) from None
        return _install(work, unpacked, unpacked_beside, name=name, expected=main.version)


def _check_early(name: str | None) -> None:
    """What can be known before minutes of fetching."""
    if name is not None:
        store.check_name(name)
    images.require_tools()


def _chosen(product: Product, path: Path, work: Path) -> tuple[Archived, Archived | None]:
    """The product's image in an archive, and its companion's. Raises LabError when there are others."""
    found = images.in_archive(path, work)
    if len(found) == 1:
        return found[0], None
    beside = [image for image in found if image.is_called(product.companion.noun)]
    main = [image for image in found if image not in beside]
    if len(main) != 1 or len(beside) != 1:
        raise LabError(
            f"{path} holds {len(found)} images",
            why="; ".join(image.title for image in found) or "it is empty",
            fix=f"save the image of {product.program} alone, or with that of its {product.companion.noun}",
        )
    return main[0], beside[0]


def _from_archive(product: Product, image: Archived, work: Path, origin: str) -> Bundle:
    work.mkdir()
    try:
        images.copy(image.reference, work / "layout")
        return _unpacked(product, work, origin, images.digest_of(f"oci:{work / 'layout'}:image"))
    except LabError as error:
        raise LabError(f"cannot unpack {image.title}", why=error.why, fix=error.fix) from None


def _fetch(product: Product, wanted: Reference, work: Path, say: Say) -> Bundle:
    """Raises LabError: one that names every other way, for the commonest reason is a machine without a network."""
    work.mkdir()
    say(f"pulling {wanted}")
    try:
        digest = images.fetch(wanted, work / "layout")
    except LabError as error:
        raise LabError(f"cannot pull {wanted}", why=error.why, fix=error.fix or product.ways()) from None
    if wanted.digest and digest != wanted.digest:
        raise LabError(
            f"{wanted} is not the image that was asked for",
            why=f"its digest is {digest}, not {wanted.digest}",
            fix=f"find out why first; what has that digest is {wanted.name}@{wanted.digest}",
        )
    say(f"unpacking {wanted}")
    return _unpacked(product, work, str(wanted), digest)


def _unpacked(product: Product, work: Path, origin: str, digest: str) -> Bundle:
    """The image in a layout, still without a name and a version."""
    images.unpack(work / "layout", work / "unpacked")
    erase(work / "layout")
    return Bundle(product, "", "", work / "unpacked", "image", origin, digest)


def _install(
    work: Path, main: Bundle, beside: Bundle | None, *, name: str | None, expected: str | None = None
) -> Bundle:
    """Check what was unpacked, and let it become a bundle of the store."""
    product = main.product
    if lacking := main.missing():
        raise LabError(
            f"{main.source} is no image of {product.title}",
            why=f"missing in it: {', '.join(lacking)}",
            fix=f"{product.repository}:v{product.example} is one",
        )
    # A mount follows links, and as the host does: out of the image.
    linked = [name for name in _KERNELS_OWN if (main.path / ROOTFS / name).is_symlink()]
    if linked:
        raise LabError(f"{main.source} cannot be used", why=f"/{linked[0]} is a symbolic link in it")
    if beside is not None:
        _merge(beside, main)
    version = main.printed_version(main.required(product.program))
    if expected is not None and version != expected:
        raise LabError(f"{main.source} holds {product.title} {version}", why=f"{expected} was asked for")
    if beside is not None:
        _check_companion(main, version)
    chosen = store.check_name(name or version)
    made = work / "bundle"
    made.mkdir()
    (main.path / ROOTFS).rename(made / ROOTFS)
    digest = beside.digest if beside else ""
    path = store.place(product) / chosen
    bundle = replace(main, name=chosen, version=version, path=path, companion_digest=digest)
    store.publish(made, bundle)
    return bundle


def _merge(beside: Bundle, main: Bundle) -> None:
    """Put the companion's program into the product's root file system: it is one static file, so one root will do."""
    companion = main.product.companion
    found = beside.outside(beside.companion)
    target = main.outside(main.required(main.product.program).parent)
    if found is None or target is None:
        raise LabError(
            f"this is no image of {companion.noun}",
            why=f"missing in it: {companion.programs[0]}",
            fix=f"--{companion.noun} IMAGE",
        )
    # Copied outside the image first: a link that lies in it must not be written through.
    fresh = main.path / "companion"
    shutil.copyfile(found, fresh)
    fresh.chmod(0o755)
    fresh.replace(target / companion.programs[0])


def _check_companion(main: Bundle, version: str) -> None:
    """Raises LabError when it does not run, or is of another minor version where both have the same numbers."""
    product = main.product
    assert main.companion is not None, "merged"
    its = main.printed_version(main.companion)
    if product.companion.derived and minor_of(its) != minor_of(version):
        raise LabError(
            f"the {product.companion.noun} is not of this {product.title}",
            why=f"it is {its}, {product.program} is {version}",
            fix=f"--{product.companion.noun} IMAGE",
        )
