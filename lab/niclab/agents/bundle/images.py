"""Images: what people call them, where they come from, and how they become a root file system.

skopeo copies them, umoci unpacks them: no layer, link or whiteout is handled by code of ours. A Docker engine is asked
first when one answers, for its mirrors, proxies and logins. An unpacked tree is used through `model.inside` only. What
an image calls a device becomes an empty file, and everything in it belongs to the user who unpacked it.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import json
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from niclab.agents.bundle.model import Product
from niclab.cilium.version import whole_release
from niclab.errors import LabError, lab_error
from niclab.host import process

_REGISTRY = "docker://"
_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "docker-daemon:", "containers-storage:", "dir:")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.:\[\]-]*(/[\w.-]+)*")
_TAG = re.compile(r"[\w][\w.-]{0,127}")
_ANSWER, _REACH, _WORK = 3, 15, 900
"""Seconds an engine may take: to answer at all; to ask a registry (skopeo too: a network that swallows packets must not
keep anybody waiting); between two words while it pulls or saves."""
_COPY, _UNPACK = 3600.0, 900.0
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
_POLICIES = ("/etc/containers/policy.json", ".config/containers/policy.json")
_MAKE = "docker save IMAGE -o image.tar, or skopeo copy docker://IMAGE oci-archive:image.tar"
_TABLES = _DOCKER, _OCI = "manifest.json", "index.json"
_COMPRESSED: Mapping[bytes, Callable[[Path, str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_LIMIT = 8 << 20
"""Bytes an archive's table of contents may have."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` with `tag` or `digest` in a registry; for another transport `name` is all there is.

    `digest`: what it must have, when not empty. `version`: given when people asked for one; the image must hold it.
    """

    name: str
    tag: str = ""
    digest: str = ""
    transport: str = _REGISTRY
    version: str | None = None

    def __str__(self) -> str:
        if self.transport != _REGISTRY:
            return self.transport + self.name
        return f"{self.name}:{self.tag}" if self.tag else f"{self.name}@{self.digest}"

    def skopeo(self, *, digest: str = "") -> str:
        """In skopeo's words; with `digest` just that manifest, whatever the tag means by now."""
        if self.transport != _REGISTRY:
            return str(self)
        return f"{_REGISTRY}{self.name}@{digest}" if digest else f"{_REGISTRY}{self}"


def parse(product: Product, text: str, *, digest: str | None = None) -> Reference:
    """A version of `product`, or any reference; `digest` is what it must have. Raises LabError."""
    found = _parse(product, text)
    if digest is None:
        return found
    if not _DIGEST.fullmatch(digest):
        raise LabError(f"{digest!r} is no digest", fix="sha256: and 64 of 0-9 and a-f")
    if found.digest and found.digest != digest:
        raise LabError(f"two digests are given for {found.name}", why=f"{found.digest} and {digest}")
    return replace(found, digest=digest)


def _parse(product: Product, text: str) -> Reference:
    if asked := whole_release(text):
        # A + cannot stand in a tag.
        return Reference(product.repository, f"v{asked.replace('+', '-')}", version=asked)
    if re.fullmatch(r"v?\d+(\.\d+)?", text):
        raise LabError(f"{text} is no version in full", fix=f"niclab {product.name} pull {product.example}")
    for transport in _TRANSPORTS:
        if text.startswith(transport) and len(text) > len(transport):
            return Reference(text.removeprefix(transport), transport=transport)
    rest, _, digest = text.removeprefix(_REGISTRY).partition("@")
    head, slash, last = rest.rpartition("/")
    base, colon, tag = last.partition(":")
    name = head + slash + base
    if not _NAME.fullmatch(name) or (colon and not _TAG.fullmatch(tag)) or (digest and not _DIGEST.fullmatch(digest)):
        raise LabError(
            f"{text!r} is neither a version nor the name of an image",
            fix=f"{product.example}, or {product.repository}:v{product.example}, or NAME@sha256:…",
        )
    return Reference(name, tag or ("" if digest else "latest"), digest)


def companion(product: Product, main: Reference) -> Reference | None:
    """Where the companion's image lies when nobody says so: beside the product's own, with the same tag."""
    head, slash, last = main.name.rpartition("/")
    beside = dict(product.companion.derived).get(last)
    if beside is None or main.transport != _REGISTRY or not main.tag:
        return None
    return Reference(head + slash + beside, main.tag, version=main.version)


@dataclass(frozen=True, slots=True)
class Archived:
    """One image of an archive: its names, and skopeo's reference to it."""

    names: tuple[str, ...]
    reference: str

    @property
    def title(self) -> str:
        return ", ".join(self.names) or "an image without a name"

    def is_called(self, mark: str) -> bool:
        """`operator` is in `operator-generic` of `quay.io/cilium/operator-generic:v1.18.3`."""
        return any(mark in name.rpartition("/")[2].partition(":")[0] for name in self.names)


def in_archive(archive: Path, work: Path) -> list[Archived]:
    """The images in an archive (`docker save` or OCI), laid out in `work`; only its table of contents is read here.
    Raises LabError, and OSError."""
    work.mkdir()
    plain = _uncompressed(archive, work)
    try:
        tables = _tables(plain)
        # What docker ≥ 25 and containerd save is both at once; names are whole in docker's table only.
        if _DOCKER in tables:
            names = [tuple(image.get("RepoTags") or ()) for image in tables[_DOCKER]]
            return [Archived(called, f"docker-archive:{plain}:@{at}") for at, called in enumerate(names)]
        if _OCI in tables:
            return _oci_images(plain, tables[_OCI]["manifests"], archive)
    except tarfile.TarError as error:
        raise LabError(f"{archive} is not an archive", why=str(error), fix=_MAKE) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LabError(f"{archive} is damaged", why=f"its table of contents: {error}", fix=_MAKE) from None
    raise LabError(f"{archive} holds no image", why=f"neither {_DOCKER} nor {_OCI} is in it", fix=_MAKE)


def _uncompressed(archive: Path, work: Path) -> Path:
    """The archive without compression and without odd letters in its name, in `work`."""
    if archive.is_dir():
        raise LabError(f"{archive} is a directory", why="an archive of an image is a file", fix=_MAKE)
    if not archive.exists():
        raise LabError(f"there is no file {archive}")
    with lab_error(f"cannot read {archive}"), archive.open("rb") as file:
        start = file.read(6)
    if start.startswith(_ZSTD):
        raise LabError(f"cannot read {archive}", why="it is compressed with zstd", fix=f"zstd -d {archive}")
    plain = work / f"{archive.stem.partition(':')[0] or 'archive'}.tar"
    uncompress = next((uncompress for magic, uncompress in _COMPRESSED.items() if start.startswith(magic)), None)
    if uncompress is None:
        plain.symlink_to(archive.absolute())
        return plain
    # Not left to skopeo: 1.9 finds no tar header in a compressed docker archive.
    try:
        with uncompress(archive, "rb") as compressed, plain.open("wb") as unpacked:
            shutil.copyfileobj(compressed, unpacked, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise LabError(f"{archive} is damaged", why=str(error), fix=_MAKE) from None
    return plain


def _tables(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in _TABLES and member.size <= _LIMIT and (content := tar.extractfile(member)) is not None:
                found[name] = json.loads(content.read())
            if len(found) == len(_TABLES):
                break
    return found


def _oci_images(plain: Path, manifests: Sequence[Any], archive: Path) -> list[Archived]:
    """One image may be listed once for each of its names."""
    entries: dict[str, list[tuple[str, str]]] = {}
    for manifest in manifests:
        notes = manifest.get("annotations") or {}
        ref = str(notes.get("org.opencontainers.image.ref.name", ""))
        entries.setdefault(manifest["digest"], []).append((str(notes.get("io.containerd.image.name", ref)), ref))
    found = []
    for named in entries.values():
        ref = next((ref for _, ref in named if ref), "")
        if len(manifests) > 1 and not ref:
            raise LabError(f"{archive} holds several images, and one has no name", fix="save one image in an archive")
        # With one image no name is needed, and skopeo compares names too strictly.
        suffix = f":{ref}" if len(manifests) > 1 else ""
        found.append(Archived(tuple(name for name, _ in named if name), f"oci-archive:{plain}{suffix}"))
    return found


def require_tools() -> None:
    """Raises LabError when skopeo or umoci is not installed."""
    missing = [name for name in ("skopeo", "umoci") if not shutil.which(name, path=process.environment()["PATH"])]
    if missing:
        raise LabError(
            f"{' and '.join(missing)} cannot be found on PATH",
            why="images are copied with skopeo and unpacked with umoci",
            fix=f"apt-get install {' '.join(missing)}; a directory (niclab … add NAME DIR) needs neither",
        )


def fetch(wanted: Reference, layout: Path) -> str:
    """The digest of what a reference means now, copied to an OCI layout unless another digest is wanted.
    Raises LabError."""
    engine = _engine() if wanted.transport == _REGISTRY else None
    if engine is None:
        digest = digest_of(wanted.skopeo())
        if wanted.digest in ("", digest):
            copy(wanted.skopeo(digest=digest), layout)
        return digest
    archive = layout.with_suffix(".tar")
    with contextlib.closing(engine), _engine_errors():
        engine.api.timeout = _REACH
        digest = str(engine.images.get_registry_data(str(wanted)).id)
        if wanted.digest not in ("", digest):
            return digest
        engine.api.timeout = _WORK
        _save(engine, wanted.name, digest, archive)
    copy(f"docker-archive:{archive}:@0", layout)
    archive.unlink()
    return digest


def _save(engine: Any, name: str, digest: str, archive: Path) -> None:
    """What a Docker engine pulls, it checks against the digest; it keeps nothing that it did not have before."""
    docker = importlib.import_module("docker")
    image = f"{name}@{digest}"
    with contextlib.ExitStack() as undo:
        try:
            engine.images.get(image)
        except docker.errors.NotFound:
            # `images.pull` of the SDK overlooks an error that comes after the first words.
            for event in engine.api.pull(name, tag=digest, stream=True, decode=True):
                if "error" in event:
                    why = str(event["error"])
                    raise LabError("docker failed", why=why, fix=_full_disk(why)) from None
            undo.callback(_forget, engine, image)
        with archive.open("wb") as file:
            file.writelines(engine.images.get(image).save())


def _forget(engine: Any, image: str) -> None:
    with contextlib.suppress(LabError), _engine_errors():
        engine.images.remove(image)


def _engine() -> Any:
    """A client of the Docker engine, or None when none answers."""
    docker = importlib.import_module("docker")
    client = None
    try:
        client = docker.from_env(timeout=_ANSWER)
        client.ping()
    except (docker.errors.DockerException, importlib.import_module("requests").exceptions.RequestException):
        if client is not None:
            client.close()
        return None
    return client


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    errors = importlib.import_module("docker").errors
    requests = importlib.import_module("requests").exceptions
    try:
        yield
    except requests.Timeout:
        raise LabError("docker failed", why="the engine gave no answer; does it wait for the registry?") from None
    except (errors.DockerException, requests.RequestException) as error:
        why = str(getattr(error, "explanation", None) or error)
        raise LabError("docker failed", why=why, fix=_full_disk(why)) from None


def digest_of(reference: str) -> str:
    """The digest of the manifest (or of the index of manifests) behind a reference. Raises LabError."""
    wanted = ["inspect", *_daemon("--daemon-host", reference), "--no-tags", "--format", "{{.Digest}}", reference]
    return _skopeo([f"--command-timeout={_REACH}s"], wanted, timeout=_REACH + 10).strip()


def copy(reference: str, layout: Path) -> None:
    """Copy one image, this machine's architecture of it, to an OCI layout. Every blob's digest is checked by skopeo.

    Raises LabError.
    """
    # Uncompressed layers, as in archives, are compressed on the way (umoci insists): as quickly as can be.
    quickly = ["--quiet", "--dest-compress-level=1"]
    command = ["copy", *_daemon("--src-daemon-host", reference), *quickly, reference, f"oci:{_plain(layout)}:image"]
    # skopeo writes to /var/tmp else, where a killed process leaves it.
    _skopeo([f"--tmpdir={layout.parent}"], command, timeout=_COPY)


def unpack(layout: Path, directory: Path) -> None:
    """Unpack the image in a layout to `rootfs` in `directory`. Raises LabError."""
    # --rootless also for root: no devices are made, and no file belongs to a user of the image's.
    _tool(["umoci", "unpack", "--rootless", "--image", f"{_plain(layout)}:image", str(directory)], _UNPACK)


def _full_disk(why: str) -> str:
    """How to fix it, when a program's words are those of a full disk; else nothing."""
    full = "no space left on device" in why.lower()
    return "free some space, or let NICLAB_HOME point to where there is more" if full else ""


def _daemon(option: str, reference: str) -> list[str]:
    """skopeo does not look for the engine where every other client does."""
    host = os.environ.get("DOCKER_HOST")
    return [option, host] if host and reference.startswith("docker-daemon:") else []


def _skopeo(options: Sequence[str], command: Sequence[str], timeout: float) -> str:
    # Without any policy skopeo refuses to work; one that is there is the user's and holds.
    if not any(Path.home().joinpath(policy).exists() for policy in _POLICIES):
        options = [*options, "--insecure-policy"]
    return _tool(["skopeo", *options, *command], timeout)


def _tool(command: Sequence[str], timeout: float) -> str:
    """Run one; its own words become the reason. It dies with this process, also when that is killed."""
    try:
        return process.run(["setpriv", "--pdeathsig", "KILL", *command], timeout=timeout)
    except LabError as error:
        # The sentence in a program's output, without the time and the levels around it.
        fatal = [words.replace('\\"', '"') for words in _FATAL.findall(error.why)]
        marked = [line.partition("⨯")[2].strip() for line in error.why.splitlines() if "⨯" in line]
        why = (fatal or marked or [error.why or error.what])[-1]
        raise LabError(f"{command[0]} failed", why=why, fix=_full_disk(why)) from None


def _plain(path: Path) -> str:
    if ":" in os.fspath(path):
        raise LabError(
            f"the store cannot be in {path.parent}",
            why="skopeo and umoci take what follows a colon for a tag",
            fix="let NICLAB_HOME name a directory without a colon",
        )
    return os.fspath(path)
