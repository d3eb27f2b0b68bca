"""Which images an archive holds: `docker save` or OCI, compressed or not. Only its table of contents is read here."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niclab.errors import LabError

_DOCKER, _OCI = "manifest.json", "index.json"
_LIMIT = 8 << 20
"""Bytes a table of contents may have."""
_REF = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive: its names, and skopeo's reference to it."""

    names: tuple[str, ...]
    reference: str

    @property
    def title(self) -> str:
        return ", ".join(self.names) or "an image without a name"

    def last_parts(self) -> list[str]:
        """`operator-generic` of `quay.io/cilium/operator-generic:v1.18.3`."""
        return [name.rpartition("/")[2].partition(":")[0] for name in self.names]


def laid_out(archive: Path, work: Path) -> Path:
    """The archive without compression and without odd letters in its name, in `work`. Raises LabError, and OSError."""
    try:
        with archive.open("rb") as file:
            start = file.read(6)
    except FileNotFoundError:
        raise LabError(f"there is no file {archive}") from None
    except IsADirectoryError:
        raise LabError(f"{archive} is a directory", why="an archive of an image is a file", fix=_MAKE) from None
    except OSError as error:
        raise LabError(f"cannot read {archive}", why=error.strerror or str(error)) from None
    plain = work / f"{archive.stem.partition(':')[0] or 'archive'}.tar"
    uncompress = next((uncompress for magic, uncompress in _COMPRESSED if start.startswith(magic)), None)
    if start.startswith(_ZSTD):
        raise LabError(f"cannot read {archive}", why="it is compressed with zstd", fix=f"zstd -d {archive}")
    if uncompress is None:
        plain.symlink_to(archive.absolute())
        return plain
    # Not left to skopeo: 1.9 finds no tar header in a compressed docker archive.
    try:
        with uncompress(archive, "rb") as compressed, plain.open("wb") as file:
            shutil.copyfileobj(compressed, file, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise LabError(f"{archive} is damaged", why=str(error), fix=_MAKE) from None
    return plain


def images(laid: Path, archive: Path) -> list[Image]:
    """The images in an archive that was laid out; errors speak of `archive`. Raises LabError."""
    try:
        tables = _tables(laid)
        # What docker ≥ 25 and containerd save is both at once; names are whole in docker's table only.
        if _DOCKER in tables:
            return _docker_images(laid, tables[_DOCKER])
        if _OCI in tables:
            return _oci_images(laid, tables[_OCI], archive)
    except tarfile.TarError as error:
        raise LabError(f"{archive} is not an archive", why=str(error), fix=_MAKE) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LabError(f"{archive} is damaged", why=f"its table of contents: {error}", fix=_MAKE) from None
    raise LabError(f"{archive} holds no image", why=f"neither {_DOCKER} nor {_OCI} is in it", fix=_MAKE)


_MAKE = "docker save IMAGE -o image.tar, or skopeo copy docker://IMAGE oci-archive:image.tar"
_COMPRESSED: tuple[tuple[bytes, Callable[[Path, str], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_ZSTD = b"\x28\xb5\x2f\xfd"


def _tables(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name not in (_DOCKER, _OCI) or not member.isfile() or member.size > _LIMIT:
                continue
            content = tar.extractfile(member)
            if content is not None:
                found[name] = json.loads(content.read())
            if len(found) == 2:
                break
    return found


def _docker_images(archive: Path, table: Any) -> list[Image]:
    return [
        Image(tuple(entry.get("RepoTags") or ()), f"docker-archive:{archive}:@{position}")
        for position, entry in enumerate(table)
    ]


def _oci_images(laid: Path, table: Any, archive: Path) -> list[Image]:
    """One image may be listed once for each of its names."""
    entries: dict[str, list[tuple[str, str]]] = {}
    for entry in table["manifests"]:
        notes = entry.get("annotations") or {}
        ref = str(notes.get(_REF, ""))
        entries.setdefault(entry["digest"], []).append((str(notes.get(_CONTAINERD_NAME, ref)), ref))
    several = len(table["manifests"]) > 1
    found = []
    for named in entries.values():
        ref = next((ref for _, ref in named if ref), "")
        if several and not ref:
            raise LabError(f"{archive} holds several images, and one has no name", fix="save one image in an archive")
        # With one image no name is needed, and skopeo compares names too strictly.
        suffix = f":{ref}" if several else ""
        found.append(Image(tuple(name for name, _ in named if name), f"oci-archive:{laid}{suffix}"))
    return found
