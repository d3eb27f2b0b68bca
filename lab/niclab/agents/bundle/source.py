"""Where images are pulled from: a Docker engine when one answers (its mirrors, proxies and logins), else skopeo."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from niclab.agents.bundle import tools
from niclab.agents.bundle.reference import Reference
from niclab.errors import LabError

Say = Callable[[str], None]

_ANSWER = 3
_REACH = 15
_WORK = 900
"""Seconds an engine may take: to answer at all; to ask a registry; between two words while it pulls or saves."""


class Source(Protocol):
    """`digest` asks, and `copy` fetches just that manifest to an OCI layout. Both raise LabError."""

    def digest(self, reference: Reference) -> str: ...

    def copy(self, reference: Reference, digest: str, layout: Path) -> None: ...


class Skopeo:
    """Registries, and every other place that skopeo knows."""

    def digest(self, reference: Reference) -> str:
        return tools.digest_of(reference.skopeo())

    def copy(self, reference: Reference, digest: str, layout: Path) -> None:
        tools.copy(reference.skopeo(digest=digest), layout)


class Engine:
    """A Docker engine: it checks what it pulls against the digest, and keeps nothing that it did not have before."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def digest(self, reference: Reference) -> str:
        with _docker_words("docker failed"):
            self._client.api.timeout = _REACH
            return str(self._client.images.get_registry_data(str(reference)).id)

    def copy(self, reference: Reference, digest: str, layout: Path) -> None:
        name = f"{reference.name}@{digest}"
        had = self._has(name)
        with _docker_words("docker failed"):
            self._client.api.timeout = _WORK
            if not had:
                self._pull(reference.name, digest)
        archive = layout.with_suffix(".tar")
        try:
            with _docker_words("docker failed"):
                image = self._client.images.get(name)
                with archive.open("wb") as file:
                    for chunk in image.save():
                        file.write(chunk)
            tools.copy(f"docker-archive:{archive}:@0", layout)
        finally:
            archive.unlink(missing_ok=True)
            if not had:
                self._forget(name)

    def _has(self, name: str) -> bool:
        with _docker_words("docker failed"):
            try:
                self._client.images.get(name)
            except importlib.import_module("docker.errors").NotFound:
                return False
        return True

    def _pull(self, name: str, digest: str) -> None:
        # `images.pull` of the SDK overlooks an error that comes after the first words.
        for event in self._client.api.pull(name, tag=digest, stream=True, decode=True):
            if "error" in event:
                raise LabError("docker failed", why=str(event["error"]), fix=tools.full_disk(str(event["error"])))

    def _forget(self, name: str) -> None:
        with contextlib.suppress(LabError), _docker_words("docker failed"):
            self._client.images.remove(name)


@contextmanager
def source(reference: Reference) -> Iterator[Source]:
    """Who fetches this reference. An engine is asked for registries only."""
    client = _engine() if reference.in_registry else None
    if client is None:
        yield Skopeo()
        return
    with contextlib.closing(client):
        yield Engine(client)


def _engine() -> Any:
    """A client of the engine, or None when none answers."""
    docker = importlib.import_module("docker")
    requests = importlib.import_module("requests")
    client = None
    try:
        client = docker.from_env(timeout=_ANSWER)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        if client is not None:
            client.close()
        return None
    return client


@contextmanager
def _docker_words(what: str) -> Iterator[None]:
    docker = importlib.import_module("docker")
    requests = importlib.import_module("requests")
    try:
        yield
    except requests.exceptions.Timeout:
        raise LabError(what, why="the engine gave no answer; does it wait for the registry?") from None
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        why = str(getattr(error, "explanation", None) or error)
        raise LabError(what, why=why, fix=tools.full_disk(why)) from None
