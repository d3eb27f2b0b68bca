"""Pulling bundles: from a registry served here, by skopeo and by a Docker engine."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from niclab.agents import bundle
from niclab.agents.bundle import CILIUM, install, store
from niclab.agents.bundle import images as bundle_images
from niclab.cli import main
from niclab.errors import LabError

from tests.support import dockerengine, images
from tests.support.busy import quickest
from tests.support.images import Registry

needs_tools = pytest.mark.skipif(
    not (shutil.which("skopeo") and shutil.which("umoci")), reason="needs skopeo and umoci, to unpack images"
)
WRONG = "sha256:" + "1" * 64


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.delenv("NICLAB_CILIUM", raising=False)


def _mirror(home: Path, port: int) -> None:
    """Let skopeo ask 127.0.0.1 instead of quay.io, as behind a company's mirror."""
    path = home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        f'[[registry]]\nprefix = "quay.io"\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
        f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'
    )


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with images.registry() as running:
        _mirror(tmp_path, running.port)
        yield running


def _refused(wanted: str, **options: Any) -> LabError:
    with pytest.raises(LabError) as caught:
        install.pull(CILIUM, wanted, **options)
    assert store.records(CILIUM) == []
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.18.3", "docker://quay.io/cilium/cilium:v1.18.3"),
        ("v1.20.0-rc.1", "docker://quay.io/cilium/cilium:v1.20.0-rc.1"),
        ("127.0.0.1:5000/a/cilium", "docker://127.0.0.1:5000/a/cilium:latest"),
        ("quay.io/cilium/cilium-ci:abc", "docker://quay.io/cilium/cilium-ci:abc"),
        (f"docker://quay.io/cilium/cilium:v1@{WRONG}", "docker://quay.io/cilium/cilium:v1"),
        (f"quay.io/cilium/cilium@{WRONG}", f"docker://quay.io/cilium/cilium@{WRONG}"),
        ("oci:/some/where:tag", "oci:/some/where:tag"),
    ],
)
def test_references(text: str, expected: str) -> None:
    assert bundle_images.parse(CILIUM, text).skopeo() == expected


@pytest.mark.parametrize("text", ["1.18", "v1", "", "a b", "--all", "quay.io/x@sha256:12", "oci:", "x:y:z/"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(LabError):
        bundle_images.parse(CILIUM, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.18.3", "quay.io/cilium/operator-generic:v1.18.3"),
        ("quay.io/cilium/cilium-ci:abc", "quay.io/cilium/operator-generic-ci:abc"),
        ("localhost/mine:1", "None"),
        ("oci:/some/cilium", "None"),
    ],
)
def test_the_operator_is_beside_the_agent(text: str, expected: str) -> None:
    assert str(bundle_images.companion(CILIUM, bundle_images.parse(CILIUM, text))) == expected


@needs_tools
def test_a_version_comes_with_its_operator(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    digest = registry.put("cilium/cilium", "v1.18.10", images.cilium("1.18.10"))
    beside = registry.put("cilium/operator-generic", "v1.18.10", images.operator("1.18.10"))
    assert main(["cilium", "pull", "1.18.10"]) == 0
    assert "pulling quay.io/cilium/operator-generic:v1.18.10" in capsys.readouterr().err
    found = bundle.find(CILIUM, "1.18")
    assert str(found.companion) == "/usr/bin/cilium-operator-generic"
    (record,) = store.records(CILIUM)
    assert (record.digest, record.companion_digest) == (digest, beside)
    asked = len(registry.asked)
    assert install.pull(CILIUM, "v1.18.10", digest=digest) == found
    assert len(registry.asked) == asked
    with pytest.raises(LabError, match="already"):
        install.pull(CILIUM, "1.18.10", digest=WRONG)


@needs_tools
def test_the_digest_is_checked(registry: Registry) -> None:
    digest = registry.put("cilium/cilium", "v1.18.10", images.cilium("1.18.10"))
    error = _refused("1.18.10", digest=WRONG, companion="")
    assert digest in error.why
    assert WRONG in error.why
    assert "no digest" in _refused("1.18.10", digest="sha256:12").what
    assert install.pull(CILIUM, "1.18.10", digest=digest, companion="").companion is None


@needs_tools
def test_a_registry_that_gives_something_else_is_not_believed(registry: Registry) -> None:
    digest = registry.put("cilium/cilium", "v1.18.10", images.cilium("1.18.10"))
    other = registry.put("other", "v1", images.cilium("1.18.10", images.Entry("more", b"more")))
    true = registry.manifests["cilium/cilium", digest]
    registry.manifests["cilium/cilium", digest] = registry.manifests["other", other]
    assert "digest" in _refused("1.18.10").why
    registry.manifests["cilium/cilium", digest] = true
    layer = json.loads(true)["layers"][1]["digest"]
    registry.blobs[layer] = b"x" * len(registry.blobs[layer])
    assert layer in _refused("1.18.10").why


@needs_tools
def test_what_was_asked_for_is_what_one_gets(registry: Registry) -> None:
    registry.put("cilium/cilium", "v1.18.10", images.cilium("1.18.9"))
    assert "1.18.10 was asked for" in _refused("1.18.10", companion="").why
    registry.put("cilium/cilium", "v1.18.9", images.cilium("1.18.9"))
    error = _refused("1.18.9")
    assert "operator-generic" in error.what
    assert "--no-operator" in error.fix


@needs_tools
@pytest.mark.parametrize("make", [images.oci_archive, images.docker_archive])
def test_any_place_that_skopeo_knows(tmp_path: Path, make: Any) -> None:
    archive = make(tmp_path / "a.tar", cilium=images.cilium())
    place = f"{'oci' if make is images.oci_archive else 'docker'}-archive:{archive}"
    assert "not the image" in _refused(place, digest=WRONG).what
    assert install.pull(CILIUM, place, name="mine").version == "1.18.10"


@needs_tools
def test_without_a_network_one_error_names_all_three_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], registry: Registry
) -> None:
    (tmp_path / ".config/containers/registries.conf").unlink()
    (tmp_path / ".config/containers").rmdir()
    _mirror(tmp_path, 1)
    assert quickest(lambda: main(["cilium", "pull", "1.18.3"])) < 5
    capsys.readouterr()
    assert main(["cilium", "pull", "1.18.3"]) == 2
    reported = capsys.readouterr().err
    assert reported.count("niclab: ") == 1
    assert "connection refused" in reported
    for way in ("niclab cilium pull", "niclab cilium load", "niclab cilium add", "without a network"):
        assert way in reported


@dataclass
class Engine:
    """As much of a Docker engine as is used. `pull_error`: said after the first words of a pull."""

    registry: Registry
    tmp: Path
    port: int = 0
    here: dict[str, str] = field(default_factory=dict)
    """Reference → image id."""
    pull_error: str = ""

    def answer(self, method: str, path: str) -> tuple[str, bytes] | None:
        path = re.sub(r"^/v1\.\d+", "", urllib.parse.unquote(path))
        if path == "/version":
            return _as_json({"ApiVersion": "1.41", "MinAPIVersion": "1.12"})
        if path == "/_ping":
            return "text/plain", b"OK"
        if found := re.fullmatch(r"/distribution/[^/]+/(.+):([^:/]+)/json", path):
            manifest = self.registry.manifests.get((found[1], found[2]))
            return _as_json({"Descriptor": {"digest": images.digest(manifest)}}) if manifest else None
        if found := re.fullmatch(r"/images/create\?tag=(.+)&fromImage=[^&]+", path):
            return self._pull(found[1], path)
        if found := re.fullmatch(r"/images/(.+)/(json|get)", path):
            return self._image(found[1], found[2])
        if method == "DELETE":
            del self.here[path.removeprefix("/images/").partition("?")[0]]
            return _as_json([])
        return None

    def _pull(self, digest: str, path: str) -> tuple[str, bytes]:
        name = path.partition("fromImage=")[2]
        last = {"error": self.pull_error} if self.pull_error else {"status": f"Digest: {digest}"}
        if not self.pull_error:
            self.here[f"{name}@{digest}"] = digest
        return images.STREAM, "\r\n".join(json.dumps(each) for each in ({"status": "Pulling"}, last)).encode()

    def _image(self, name: str, what: str) -> tuple[str, bytes] | None:
        if what == "json":
            return _as_json({"Id": self.here[name]}) if name in self.here else None
        manifest = next(each for (_, key), each in self.registry.manifests.items() if key == name)
        return "application/x-tar", _saved(self.registry, manifest, self.tmp)


def _as_json(content: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _saved(registry: Registry, manifest: bytes, tmp: Path) -> bytes:
    """What `docker save` would write of an image in the registry."""
    told = json.loads(manifest)
    blobs = [each["digest"] for each in (told["config"], *told["layers"])]
    names = [f"blobs/{digest.replace(':', '/')}" for digest in blobs]
    files = {name: registry.blobs[digest] for name, digest in zip(names, blobs, strict=True)}
    files["manifest.json"] = json.dumps([{"Config": names[0], "RepoTags": None, "Layers": names[1:]}]).encode()
    return images.write(tmp / "saved.tar", files).read_bytes()


@pytest.fixture(scope="module")
def docker_host() -> Iterator[str]:
    """DOCKER_HOST of a real engine that serves this module alone."""
    if dockerengine.WHY_NONE:
        pytest.skip(dockerengine.WHY_NONE)
    with (
        tempfile.TemporaryDirectory(prefix="niclab-docker-") as directory,
        dockerengine.running(Path(directory)) as host,
    ):
        yield host


@pytest.fixture(params=["fake", "real"])
def engine(
    request: pytest.FixtureRequest, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine | None]:
    """A stand-in for an engine, and a real one: the same tests hold for both."""
    if request.param == "real":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("docker_host"))
        yield None
        return
    stand_in = Engine(registry, tmp_path)
    with images.serving(lambda handler, state: state.answer(handler.command, handler.path), stand_in):
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{stand_in.port}")
        yield stand_in


@needs_tools
def test_an_engine_pulls_checks_and_keeps_nothing(registry: Registry, engine: Engine | None) -> None:
    digest = registry.put("cilium/cilium", "v1.18.10", images.cilium("1.18.10"))
    registry.put("cilium/operator-generic", "v1.18.10", images.operator("1.18.10"))
    wanted = f"127.0.0.1:{registry.port}/cilium/cilium:v1.18.10"
    assert "not the image" in _refused(wanted, digest=WRONG).what
    pulled = install.pull(CILIUM, wanted, digest=digest)
    assert (pulled.version, str(pulled.companion)) == ("1.18.10", "/usr/bin/cilium-operator-generic")
    assert store.records(CILIUM)[0].digest == digest
    if engine is not None:
        assert engine.here == {}
    assert [path.name for path in store.place(CILIUM).glob(".new-*")] == []


@needs_tools
def test_an_engines_own_words_are_the_reason(registry: Registry, engine: Engine | None) -> None:
    error = _refused(f"127.0.0.1:{registry.port}/cilium/cilium:v1.18.3")
    assert "no such thing" in error.why
    assert "niclab cilium load" in error.fix
    if engine is not None:
        registry.put("cilium/cilium", "v1.18.3", images.cilium("1.18.3"))
        engine.pull_error = "failed to register layer: no space left on device"
        error = _refused(f"127.0.0.1:{registry.port}/cilium/cilium:v1.18.3")
        assert "no space left" in error.why
        assert "NICLAB_HOME" in error.fix
