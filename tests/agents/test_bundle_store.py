"""Bundles that are directories, the store, and which bundle a run gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from niclab.agents import bundle
from niclab.agents.bundle import CILIUM, KUBERNETES, install, store
from niclab.agents.bundle.model import inside
from niclab.cilium.version import age, printed_release
from niclab.cli import main
from niclab.errors import LabError

from tests.support import images


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NICLAB_CILIUM", raising=False)
    monkeypatch.delenv("NICLAB_KUBERNETES", raising=False)


def _refused(act: Callable[..., object], *arguments: object) -> LabError:
    with pytest.raises(LabError) as caught:
        act(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("cilium-agent 1.18.10 6bf2fe83d2 2026-05-12T23:46:41+00:00 go version go1.25.5 linux/amd64", "1.18.10"),
        ("cilium-agent 1.20.0-dev 3ab8efdd3b 2026-05-26T15:19:39+03:00 go version go1.26.6 linux/amd64", "1.20.0-dev"),
        ("Kubernetes v1.36.2\n", "1.36.2"),
        ("etcd Version: 3.5.21\nGit SHA: Not provided\nGo Version: go1.24", "3.5.21"),
        ("cilium-agent  go version go1.25.5 linux/amd64", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_what_a_binary_prints(output: str, expected: str | None) -> None:
    assert printed_release(output) == expected


def test_versions_are_ordered_as_they_were_released() -> None:
    released = ["1.18.2", "1.18.10", "1.19.0-dev", "1.19.0-rc.0", "1.19.0-rc.9", "1.19.0-rc.10", "1.19.0", "1.20.0-dev"]
    assert sorted(set(released), key=age) == released


def test_a_directory_is_remembered_not_copied(tmp_path: Path) -> None:
    built = images.directory(tmp_path / "built", "1.20.0-dev")
    added = install.add(CILIUM, "mine", built)
    assert bundle.find(CILIUM, "mine") == bundle.find(CILIUM, "1.20.0-dev") == bundle.find(CILIUM, "1.20") == added
    assert (added.name, added.version, added.minor, added.kind) == ("mine", "1.20.0-dev", "1.20", "directory")
    assert (added.path, added.root) == (built, None)
    assert added.required("cilium-agent") == built / "bin/cilium-agent"
    assert added.companion == built / "bin/cilium-operator-generic"
    assert added.bpf == built / "bpf"
    kept = [path.name for path in (tmp_path / "home/bundles/cilium/mine").iterdir()]
    assert kept == ["bundle.json"]
    store.remove(CILIUM, "mine")
    assert store.records(CILIUM) == []
    assert (built / "bin/cilium-agent").exists()


def test_a_directory_that_was_built_again_tells_its_new_version(tmp_path: Path) -> None:
    built = images.directory(tmp_path / "built", "1.18.1")
    install.add(CILIUM, "mine", built)
    (built / "bin/cilium-agent").write_bytes(images.script(images.AGENT.format("1.18.2")))
    assert bundle.find(CILIUM, "1.18").version == "1.18.2"


def test_the_newest_that_fits_is_found_and_a_name_is_meant_exactly(tmp_path: Path) -> None:
    for name, number in (("a", "1.18.10"), ("b", "1.18.9"), ("c", "1.20.0-dev"), ("1.18", "1.18.3")):
        install.add(CILIUM, name, images.directory(tmp_path / name, number))
    assert bundle.find(CILIUM).name == "c"
    assert bundle.find(CILIUM, "v1.18.10").name == "a"
    assert bundle.find(CILIUM, "1.18").name == "1.18"
    store.remove(CILIUM, "1.18")
    assert bundle.find(CILIUM, "1.18").name == "a"
    assert [each.name for each in bundle.every(CILIUM)] == ["c", "a", "b"]


def test_the_environment_comes_before_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("newer", "1.20.1"), ("named", "1.19.0")):
        install.add(CILIUM, name, images.directory(tmp_path / name, number))
    here = images.directory(tmp_path / "here", "1.18.10")
    monkeypatch.setenv("NICLAB_CILIUM", f"{here}{os.pathsep}named")
    assert bundle.find(CILIUM).name == "named"
    assert bundle.find(CILIUM, "1.18").path == here
    assert bundle.find(CILIUM, "1.20").name == "newer"
    assert [each.name for each in bundle.every(CILIUM)] == ["newer", "named", "here"]


@pytest.mark.parametrize("entry", ["nothing", "/nowhere/at-all"])
def test_a_wrong_entry_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("NICLAB_CILIUM", entry)
    error = _refused(bundle.find, CILIUM)
    assert entry in error.what
    assert "neither a directory nor a bundle" in error.why


def test_two_directories_of_one_name_are_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [images.directory(tmp_path / parent / "built") for parent in ("a", "b")]
    monkeypatch.setenv("NICLAB_CILIUM", os.pathsep.join(map(str, both)))
    assert "two entries" in _refused(bundle.every, CILIUM).why


def test_without_a_bundle_the_error_names_all_three_ways(tmp_path: Path) -> None:
    install.add(CILIUM, "mine", images.directory(tmp_path / "built", "1.20.0-dev"))
    error = _refused(bundle.find, CILIUM, "1.17")
    assert "1.17" in error.what
    assert "mine (1.20.0-dev)" in error.why
    for way in ("niclab cilium pull", "niclab cilium load", "niclab cilium add", "without a network"):
        assert way in error.fix


def test_kubernetes_may_bring_its_own_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kube/bin").mkdir(parents=True)
    server = tmp_path / "kube/bin/kube-apiserver"
    server.write_bytes(images.script(images.APISERVER.format("1.36.2")))
    server.chmod(0o755)
    monkeypatch.setenv("NICLAB_KUBERNETES", str(tmp_path / "kube"))
    found = bundle.find(KUBERNETES, "1.36")
    assert (found.version, found.required("kube-apiserver")) == ("1.36.2", tmp_path / "kube/bin/kube-apiserver")
    assert found.companion is None
    own = tmp_path / "kube/bin/etcd"
    own.touch()
    assert found.outside(found.companion) == own


@pytest.mark.parametrize("gone", ["bpf", "bin/cilium-agent", "bin/cilium-cni", "bin/cilium-dbg"])
def test_a_directory_that_lacks_something_is_refused(tmp_path: Path, gone: str) -> None:
    built = images.directory(tmp_path / "built")
    (built / gone).rename(tmp_path / "away")
    assert gone in _refused(install.add, CILIUM, "mine", built).why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(60), "format"),
        (b"#!/bin/sh\necho broken >&2\nexit 3\n", "broken"),
        (b"#!/bin/sh\necho hello\n", "hello"),
    ],
)
def test_an_agent_that_does_not_run_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    built = images.directory(tmp_path / "built")
    (built / "bin/cilium-agent").write_bytes(content)
    error = _refused(install.add, CILIUM, "mine", built)
    assert str(built / "bin/cilium-agent") in error.what
    assert why in error.why


def test_a_name_is_not_taken_twice(tmp_path: Path) -> None:
    one, other = (images.directory(tmp_path / name) for name in ("one", "other"))
    install.add(CILIUM, "mine", one)
    install.add(CILIUM, "mine", one)
    assert "niclab cilium rm mine" in _refused(install.add, CILIUM, "mine", other).fix
    assert bundle.find(CILIUM, "mine").path == one


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "-x", "a" * 64])
def test_a_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "name of a bundle" in _refused(install.add, CILIUM, name, images.directory(tmp_path / "built")).what


def test_a_damaged_record_is_shown_and_can_be_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install.add(CILIUM, "mine", images.directory(tmp_path / "built"))
    (store.place(CILIUM) / "mine/bundle.json").write_text("{")
    assert "cannot be read" in _refused(bundle.find, CILIUM, "mine").why
    assert main(["cilium", "ls"]) == 0
    assert "cannot be used" in capsys.readouterr().out
    assert main(["cilium", "rm", "mine"]) == 0
    assert store.records(CILIUM) == []


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = images.directory(tmp_path / "built", "1.18.10")
    assert main(["cilium", "ls"]) == 0
    assert "niclab cilium pull" in capsys.readouterr().out
    assert main(["cilium", "add", "mine", str(built)]) == 0
    assert main(["cilium", "ls"]) == 0
    assert "1.18.10" in capsys.readouterr().out
    assert main(["cilium", "ls", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["version"], row["kind"], row["path"]) == ("mine", "1.18.10", "directory", str(built))
    assert main(["cilium", "rm", "mine"]) == 0
    assert "untouched" in capsys.readouterr().out
    assert main(["cilium", "rm", "mine"]) == 2
    assert main(["kubernetes", "add", "mine", str(built)]) == 2
    assert "bin/kube-apiserver" in capsys.readouterr().err


def test_many_at_once(tmp_path: Path) -> None:
    built = images.directory(tmp_path / "built")
    code = (
        "import sys; from pathlib import Path; from niclab.agents.bundle import CILIUM\n"
        "from niclab.agents.bundle.install import add\nfrom niclab.agents.bundle.store import remove\n"
        "for round in range(5):\n"
        "    add(CILIUM, 'shared', Path(sys.argv[1])); add(CILIUM, sys.argv[2], Path(sys.argv[1]))\n"
        "remove(CILIUM, sys.argv[2])\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(built), f"n{number}"]) for number in range(4)]
    assert [each.wait(30) for each in running] == [0] * 4
    assert [record.name for record in store.records(CILIUM)] == ["shared"]
    assert sorted(path.name for path in store.place(CILIUM).iterdir()) == [".lock", "shared"]


def test_the_store_is_where_the_environment_or_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert store.home() == tmp_path / "home"
    assert store.place(KUBERNETES) == tmp_path / "home/bundles/kubernetes"
    monkeypatch.delenv("NICLAB_HOME")
    monkeypatch.delenv("NICLAB_USERNS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert store.home() == tmp_path / ".local/share/niclab"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert store.home() == Path("/var/lib/niclab")


def test_links_of_an_image_are_followed_inside_it(tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/file").touch()
    (tmp_path / "secret").touch()
    for name, target in (
        ("lib", "/usr/lib"),
        ("up", "../../../../usr/lib/file"),
        ("out", str(tmp_path / "secret")),
        ("loop", "loop"),
        ("deep", "lib/../lib/file"),
    ):
        (root / name).symlink_to(target)
    assert inside(root, "/lib/file") == inside(root, "/up") == inside(root, "/deep") == root / "usr/lib/file"
    assert [inside(root, path) for path in ("/out", "/loop", "/../../secret", "/lib/file/x")] == [None] * 4
