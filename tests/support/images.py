"""Small images for tests, made here: stand-ins that print a version, in archives or in a registry."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

AGENT = "cilium-agent {} 6bf2fe83d2 2026-05-12T23:46:41+00:00 go version go1.25.5 linux/amd64"
OPERATOR = "Cilium-Operator {} 6bf2fe83d2 2026-05-12T23:46:41+00:00 go version go1.25.5 linux/amd64"
APISERVER = "Kubernetes v{}"
ETCD = "etcd Version: {}\nGit SHA: 6fd1a3b"

STREAM = "application/json-seq"
"""What an answer is called that comes in chunks, as an engine's while it pulls."""
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Entry:
    """A member of a layer. `link` is the target of a link, `kind` one of tarfile's types."""

    name: str
    data: bytes = b""
    mode: int = 0o755
    kind: bytes = tarfile.REGTYPE
    link: str = ""


def script(line: str) -> bytes:
    return f"#!/bin/sh\ncat <<'END'\n{line}\nEND\n".encode()


def stand_in(line: str) -> bytes:
    """A program for an image, which has a shell but no cat."""
    return ("#!/bin/sh\n" + "".join(f"echo '{part}'\n" for part in line.split("\n"))).encode()


@functools.cache
def shell() -> list[Entry]:
    """/bin/sh and the libraries it needs: this machine's."""
    reported = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    paths = ["/bin/sh", *re.findall(r"(/\S+) \(0x", reported)]
    return [Entry(path.lstrip("/"), Path(path).read_bytes()) for path in paths]


def cilium(version: str = "1.18.10", *more: Entry) -> list[list[Entry]]:
    """The layers of a Cilium image, with Cilium's places for its files."""
    programs = [
        Entry("usr/bin/cilium-agent", stand_in(AGENT.format(version))),
        Entry("usr/bin/cilium-dbg", stand_in("")),
        Entry("opt/cni/bin/cilium-cni", stand_in("")),
        Entry("var/lib/cilium/bpf/bpf_lxc.c", b"// eBPF\n", 0o644),
    ]
    return [shell(), programs, list(more)]


def operator(version: str = "1.18.10") -> list[list[Entry]]:
    return [[Entry("usr/bin/cilium-operator-generic", stand_in(OPERATOR.format(version)))]]


def directory(path: Path, version: str = "1.20.0-dev") -> Path:
    """A directory bundle."""
    for name in ("cilium-agent", "cilium-cni", "cilium-dbg", "cilium-operator-generic"):
        program = path / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(script(AGENT.format(version)))
        program.chmod(0o755)
    (path / "bpf").mkdir()
    return path


@functools.cache
def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(entries: list[Entry]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.mode, member.type, member.linkname = entry.mode, entry.kind, entry.link
            # Whoever unpacks it must not need to be this user.
            member.uid, member.gid, member.size = 4711, 4711, len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return content.getvalue()


@dataclass(frozen=True)
class Built:
    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def _config(layers: list[bytes]) -> bytes:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    about = {"architecture": architecture, "os": "linux", "config": {}}
    return json.dumps(about | {"rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]}}).encode()


def build(layers: list[list[Entry]]) -> Built:
    """An OCI image."""
    plain = [_layer(entries) for entries in layers]
    zipped = [_zipped(each) for each in plain]
    config = _config(plain)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": _LAYER, "digest": digest(each), "size": len(each)} for each in zipped],
    }
    return Built(json.dumps(manifest).encode(), {digest(blob): blob for blob in (config, *zipped)})


def write(path: Path, files: dict[str, bytes]) -> Path:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path.write_bytes(gzip.compress(content.getvalue(), 1) if path.suffix == ".gz" else content.getvalue())
    return path


def docker_archive(path: Path, **images: list[list[Entry]]) -> Path:
    """What `docker save` writes; the images are called example/NAME:v1 (for _ in NAME a -)."""
    files: dict[str, bytes] = {}
    table = []
    for name, layers in images.items():
        plain = {digest(each): each for each in map(_layer, layers)}
        config = _config(list(plain.values()))
        names = {digest: f"{digest.removeprefix('sha256:')}/layer.tar" for digest in plain}
        files |= {names[digest]: each for digest, each in plain.items()}
        files[config_name := f"{digest(config).removeprefix('sha256:')}.json"] = config
        tags = [f"example/{name.replace('_', '-')}:v1"]
        table.append({"Config": config_name, "RepoTags": tags, "Layers": list(names.values())})
    return write(path, files | {"manifest.json": json.dumps(table).encode()})


def oci_archive(path: Path, **images: list[list[Entry]]) -> Path:
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    entries = []
    for name, layers in images.items():
        built = build(layers)
        blobs = built.blobs | {built.digest: built.manifest}
        files |= {f"blobs/{digest.replace(':', '/')}": blob for digest, blob in blobs.items()}
        notes = {"org.opencontainers.image.ref.name": f"example/{name.replace('_', '-')}:v1"}
        about = {"mediaType": _MANIFEST, "digest": built.digest, "size": len(built.manifest)}
        entries.append(about | {"annotations": notes})
    return write(path, files | {"index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode()})


def both_archive(path: Path, **images: list[list[Entry]]) -> Path:
    """What docker ≥ 25 and containerd save: an OCI archive, with docker's table beside it."""
    oci_archive(path, **images)
    with tarfile.open(path) as tar:
        files = {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    table = []
    for name, layers in images.items():
        manifest = json.loads(build(layers).manifest)
        blobs = [f"blobs/{each['digest'].replace(':', '/')}" for each in (manifest["config"], *manifest["layers"])]
        table.append({"Config": blobs[0], "RepoTags": [f"example/{name}:v1"], "Layers": blobs[1:]})
    return write(path, files | {"manifest.json": json.dumps(table).encode()})


@dataclass
class Registry:
    """A registry on 127.0.0.1 that only gives. `manifests`: what (name, tag or digest) is answered with."""

    port: int = 0
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, name: str, tag: str, layers: list[list[Entry]]) -> str:
        built = build(layers)
        self.blobs |= built.blobs
        self.manifests |= {(name, tag): built.manifest, (name, built.digest): built.manifest}
        return built.digest

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and content."""
        self.asked.append(path)
        if path.rstrip("/") == "/v2":
            return "application/json", b"{}"
        asked = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if asked is None:
            return None
        if asked[2] == "blobs":
            return ("application/octet-stream", self.blobs[asked[3]]) if asked[3] in self.blobs else None
        manifest = self.manifests.get((asked[1], asked[3]))
        return (_MANIFEST, manifest) if manifest is not None else None


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    with serving(lambda handler, registry: registry.answer(handler.path), Registry()) as running:
        yield running


@contextlib.contextmanager
def serving(answer: Any, state: Any) -> Iterator[Any]:
    """An HTTP server on 127.0.0.1 that says what `answer(handler, state)` does: a type and a content; None is a 404."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answered = answer(self, state)
            kind, content = answered or (
                "application/json",
                b'{"message": "no such thing: ' + self.path.encode() + b'"}',
            )
            self.send_response(200 if answered else 404)
            self.send_header("Content-Type", kind)
            chunked = kind == STREAM
            self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(content)))))
            if kind == _MANIFEST:
                self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if chunked:
                content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
