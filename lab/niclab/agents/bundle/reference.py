"""What people call an image: a version, a name in a registry, or a place that skopeo knows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from niclab.agents.bundle.model import Product
from niclab.cilium.version import whole_release
from niclab.errors import LabError

REGISTRY = "docker://"
_PLACES = ("oci:", "oci-archive:", "docker-archive:", "docker-daemon:", "containers-storage:", "dir:")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.:\[\]-]*(/[\w.-]+)*")
_TAG = re.compile(r"[\w][\w.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` with `tag` or `digest` in a registry; for another transport `name` is all there is.

    `digest`: what it must have, when not empty.
    """

    name: str
    tag: str = ""
    digest: str = ""
    transport: str = REGISTRY
    version: str | None = None
    """Given when people asked for a version: the image must hold just that."""

    def __str__(self) -> str:
        if self.transport != REGISTRY:
            return self.transport + self.name
        return f"{self.name}:{self.tag}" if self.tag else f"{self.name}@{self.digest}"

    @property
    def in_registry(self) -> bool:
        return self.transport == REGISTRY

    def skopeo(self, *, digest: str = "") -> str:
        """In skopeo's words; with `digest` just that manifest, whatever the tag means by now."""
        if self.transport != REGISTRY:
            return str(self)
        return f"{REGISTRY}{self.name}@{digest}" if digest else f"{REGISTRY}{self}"


def parse(product: Product[Any], text: str, *, digest: str | None = None) -> Reference:
    """A version of `product`, or any reference; `digest` is what it must have. Raises LabError."""
    found = _parse(product, text)
    if digest is None:
        return found
    if not _DIGEST.fullmatch(digest):
        raise LabError(f"{digest!r} is no digest", fix="sha256: and 64 of 0-9 and a-f")
    if found.digest and found.digest != digest:
        raise LabError(f"two digests are given for {found.name}", why=f"{found.digest} and {digest}")
    return replace(found, digest=digest)


def _parse(product: Product[Any], text: str) -> Reference:
    if asked := whole_release(text):
        # A + cannot stand in a tag.
        return Reference(product.repository, f"v{asked.replace('+', '-')}", version=asked)
    if re.fullmatch(r"v?\d+(\.\d+)?", text):
        raise LabError(f"{text} is no version in full", fix=f"niclab {product.name} pull {product.example}")
    for transport in _PLACES:
        if text.startswith(transport) and len(text) > len(transport):
            return Reference(text.removeprefix(transport), transport=transport)
    rest, _, digest = text.removeprefix(REGISTRY).partition("@")
    head, slash, last = rest.rpartition("/")
    base, colon, tag = last.partition(":")
    name = head + slash + base
    if not _NAME.fullmatch(name) or (colon and not _TAG.fullmatch(tag)) or (digest and not _DIGEST.fullmatch(digest)):
        raise LabError(
            f"{text!r} is neither a version nor the name of an image",
            fix=f"{product.example}, or {product.repository}:v{product.example}, or NAME@sha256:…",
        )
    return Reference(name, tag or ("" if digest else "latest"), digest)


def companion(product: Product[Any], main: Reference) -> Reference | None:
    """Where the companion's image lies when nobody says so: beside the product's own, with the same tag."""
    last = PurePosixPath(main.name).name
    beside = dict(product.companion.derived).get(last)
    if beside is None or not main.in_registry or not main.tag:
        return None
    return Reference(main.name.removesuffix(last) + beside, main.tag, version=main.version)
