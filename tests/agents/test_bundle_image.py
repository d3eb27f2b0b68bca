"""Bundles that are images: archives loaded with the real skopeo and umoci, good, hostile and broken ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from niclab.agents import bundle
from niclab.agents.bundle import CILIUM, KUBERNETES, install, store
from niclab.cli import main
from niclab.errors import LabError
from niclab.host.userns import is_able

from tests.support import images
from tests.support.busy import wait_for
from tests.support.images import Entry

needs_tools = pytest.mark.skipif(
    not (shutil.which("skopeo") and shutil.which("umoci")), reason="needs skopeo and umoci, to unpack images"
)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NICLAB_CILIUM", raising=False)
    monkeypatch.delenv("NICLAB_KUBERNETES", raising=False)


def _refused(path: Path, *, name: str | None = None) -> LabError:
    with pytest.raises(LabError) as caught:
        install.load(CILIUM, path, name=name)
    place = store.place(CILIUM)
    assert not place.exists() or {path.name for path in place.iterdir()} <= {".lock"}
    return caught.value


@needs_tools
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (images.docker_archive, "image.tar"),
        (images.docker_archive, "image:v1.tar.gz"),
        (images.oci_archive, "image.tar"),
        (images.oci_archive, "image.tar.gz"),
        (images.both_archive, "image.tar"),
    ],
)
def test_an_archive_is_unpacked(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    loaded = install.load(CILIUM, make(tmp_path / name, cilium=images.cilium("1.18.10")))
    assert loaded == bundle.find(CILIUM, "1.18")
    assert (loaded.name, loaded.version, loaded.kind) == ("1.18.10", "1.18.10", "image")
    assert loaded.path == tmp_path / "home/bundles/cilium/1.18.10"
    assert loaded.root == loaded.path / "rootfs"
    assert (str(loaded.required("cilium-agent")), str(loaded.required("cilium-cni"))) == (
        "/usr/bin/cilium-agent",
        "/opt/cni/bin/cilium-cni",
    )
    assert (str(loaded.required("cilium-dbg")), str(loaded.bpf)) == ("/usr/bin/cilium-dbg", "/var/lib/cilium/bpf")
    assert loaded.companion is None
    (record,) = store.records(CILIUM)
    assert record.digest.startswith("sha256:")
    assert record.when
    assert sorted(path.name for path in loaded.path.iterdir()) == ["bundle.json", "rootfs"]


@needs_tools
def test_the_operator_comes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = images.docker_archive(tmp_path / "a.tar", cilium=images.cilium(), operator_generic=images.operator())
    loaded = install.load(CILIUM, both)
    assert str(loaded.companion) == "/usr/bin/cilium-operator-generic"
    one = images.oci_archive(tmp_path / "one.tar", cilium=images.cilium())
    other = images.docker_archive(tmp_path / "other.tar", anything=images.operator())
    assert main(["cilium", "load", str(one), "--name", "second", "--operator", str(other)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["cilium", "load", str(one), "--name", "third"]) == 0
    assert "no operator" in capsys.readouterr().err
    assert bundle.find(CILIUM, "1.18").companion is not None


@needs_tools
def test_an_api_server_with_its_etcd(tmp_path: Path) -> None:
    server = [
        images.shell(),
        [Entry("usr/local/bin/kube-apiserver", images.stand_in(images.APISERVER.format("1.36.2")))],
    ]
    etcd = [[Entry("usr/local/bin/etcd", images.stand_in(images.ETCD.format("3.6.4")))]]
    loaded = install.load(KUBERNETES, images.oci_archive(tmp_path / "a.tar", kube_apiserver=server, etcd=etcd))
    assert loaded == bundle.find(KUBERNETES)
    assert (loaded.version, str(loaded.required("kube-apiserver"))) == ("1.36.2", "/usr/local/bin/kube-apiserver")
    assert loaded.root is not None
    assert str(loaded.companion) == "/usr/local/bin/etcd"
    assert loaded.outside(loaded.companion) == loaded.root / "usr/local/bin/etcd"


@needs_tools
def test_a_hostile_image_stays_in_its_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    first = [
        Entry("gone", b"x"),
        Entry("read-only", mode=0o555, kind=tarfile.DIRTYPE),
        Entry("read-only/below", mode=0o555, kind=tarfile.DIRTYPE),
        Entry("escape", kind=tarfile.SYMTYPE, link=str(outside)),
        Entry("dev/disk", kind=tarfile.BLKTYPE),
        Entry("usr/bin/cilium-operator-generic", kind=tarfile.SYMTYPE, link=str(outside / "precious")),
        Entry("hard", kind=tarfile.LNKTYPE, link="usr/bin/cilium-agent"),
    ]
    second = [
        Entry(".wh.gone"),
        Entry("escape/pwned", b"pwned"),
        Entry(f"{'../' * 20}{str(tmp_path).lstrip('/')}/outside/pwned", b"pwned"),
    ]
    layers = [*images.cilium("1.18.10", *first), second]
    archive = images.docker_archive(tmp_path / "a.tar", cilium=layers, operator_generic=images.operator())
    loaded = install.load(CILIUM, archive)
    assert loaded.root is not None
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"
    assert not (loaded.root / "gone").exists()
    assert (loaded.root / "dev/disk").is_file()
    assert {path.lstat().st_uid for path in loaded.root.rglob("*")} == {os.geteuid()}
    assert (loaded.root / "hard").stat().st_ino == (loaded.root / "usr/bin/cilium-agent").stat().st_ino
    assert not (loaded.root / "usr/bin/cilium-operator-generic").is_symlink()
    # A setuid program of an image is nobody else's on this machine.
    assert loaded.path.parent.parent.stat().st_mode & 0o077 == 0
    assert main(["cilium", "rm", "1.18.10"]) == 0
    assert [path.name for path in store.place(CILIUM).iterdir()] == [".lock"]
    assert (outside / "precious").exists()


@needs_tools
def test_a_hard_link_out_of_the_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    link = Entry("stolen", kind=tarfile.LNKTYPE, link=f"{'../' * 20}{str(tmp_path).lstrip('/')}/secret")
    assert "stolen" in _refused(images.oci_archive(tmp_path / "a.tar", cilium=images.cilium("1.18.10", link))).why


@needs_tools
def test_a_linked_run_directory_is_refused(tmp_path: Path) -> None:
    link = Entry("run", kind=tarfile.SYMTYPE, link="/etc")
    archive = images.oci_archive(tmp_path / "a.tar", cilium=images.cilium("1.18.10", link))
    assert "/run is a symbolic link" in _refused(archive).why


@needs_tools
def test_wrong_images_are_refused(tmp_path: Path) -> None:
    error = _refused(images.oci_archive(tmp_path / "a.tar", something=images.operator()))
    assert "no image of Cilium" in error.what
    assert "cilium-agent" in error.why
    foreign = Entry("usr/bin/cilium-agent", b"\x7fELF\x02\x01\x01" + bytes(60))
    error = _refused(images.oci_archive(tmp_path / "b.tar", cilium=images.cilium("1.18.10", foreign)))
    assert "does not run" in error.what
    assert "format" in error.why
    assert os.uname().machine in error.fix
    without = [layer for layer in images.cilium() if not any("bpf" in entry.name for entry in layer)]
    without.append([entry for entry in images.cilium()[1] if "bpf" not in entry.name])
    assert "/var/lib/cilium/bpf" in _refused(images.oci_archive(tmp_path / "c.tar", cilium=without)).why
    old = images.operator("1.17.4")
    error = _refused(images.oci_archive(tmp_path / "d.tar", cilium=images.cilium(), operator_generic=old))
    assert "1.17.4" in error.why
    three = {name: [[Entry(name, b"x")]] for name in ("one", "two", "three")}
    assert "3 images" in _refused(images.oci_archive(tmp_path / "e.tar", **three)).what


@needs_tools
def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text " * 1000)
    assert "is not an archive" in _refused(tmp_path / "text").what
    (tmp_path / "empty").touch()
    assert "is not an archive" in _refused(tmp_path / "empty").what
    assert "there is no file" in _refused(tmp_path / "nothing").what
    assert "is a directory" in _refused(tmp_path).what
    whole = images.docker_archive(tmp_path / "whole.tar.gz", cilium=images.cilium()).read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in _refused(tmp_path / "half.tar.gz").what
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text")
    assert "holds no image" in _refused(tmp_path / "other.tar").what
    (tmp_path / "z.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert "zstd" in _refused(tmp_path / "z.tar.zst").fix


def test_without_the_tools_their_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("niclab.host.process._SYSTEM_PATH", str(tmp_path))
    error = _refused(tmp_path / "image.tar")
    assert "apt-get install skopeo umoci" in error.fix
    assert "niclab … add" in error.fix


@needs_tools
def test_the_same_image_again_is_no_error_another_is(tmp_path: Path) -> None:
    archive = images.docker_archive(tmp_path / "a.tar", cilium=images.cilium())
    assert install.load(CILIUM, archive) == install.load(CILIUM, archive)
    other = images.docker_archive(tmp_path / "b.tar", cilium=images.cilium("1.18.10", Entry("more", b"more")))
    with pytest.raises(LabError, match="already"):
        install.load(CILIUM, other)
    assert install.load(CILIUM, other, name="other").version == "1.18.10"


@needs_tools
def test_a_bundle_in_use_is_not_removed(tmp_path: Path) -> None:
    loaded = install.load(CILIUM, images.docker_archive(tmp_path / "a.tar", cilium=images.cilium()))
    with bundle.held(loaded), bundle.held(loaded), pytest.raises(LabError, match="in use"):
        store.remove(CILIUM, loaded.name)
    store.remove(CILIUM, loaded.name)
    with pytest.raises(LabError), bundle.held(loaded):
        pass


@needs_tools
def test_a_killed_load_leaves_nothing_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = images.docker_archive(tmp_path / "a.tar", cilium=images.cilium())
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "umoci").write_text(
        f"#!/bin/sh\necho $$ >{tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 60\n"
    )
    (slow / "umoci").chmod(0o755)
    command = [sys.executable, "-m", "niclab.cli", "cilium", "load", str(archive)]
    path = f"{slow}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "pid").exists)
    umoci = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not _runs(umoci))
    left = [path.name for path in store.place(CILIUM).iterdir()]
    assert len(left) == 1
    assert any(name.startswith(".new-") for name in left)
    assert store.records(CILIUM) == []
    install.load(CILIUM, archive)
    assert sorted(path.name for path in store.place(CILIUM).iterdir()) == [".lock", "1.18.10"]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_tools
@pytest.mark.skipif(not is_able(), reason="needs root: mounts a small file system")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    archive = images.docker_archive(tmp_path / "a.tar", cilium=images.cilium())
    (tmp_path / "home").mkdir()
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && exec "$@"'
    command = [sys.executable, "-m", "niclab.cli", "cilium", "load", str(archive)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "home"), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr
    assert "NICLAB_HOME" in done.stderr
