"""What the virtual machine brings along for real agents; booting it is not tried here."""

from __future__ import annotations

import importlib.util
import io
import os
import py_compile
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
needs_ext4 = pytest.mark.skipif(
    not all(shutil.which(name, path=PATH) for name in ("mke2fs", "debugfs")), reason="needs e2fsprogs"
)


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/vm.py, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    specification = importlib.util.spec_from_file_location("niclab_vm", ROOT / "scripts" / "vm.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "niclab_vm", module)
    specification.loader.exec_module(module)
    module.CACHE.mkdir(parents=True)
    return module


def debugfs(disk: Path, request: str) -> str:
    return subprocess.run(["debugfs", "-R", request, disk], capture_output=True, text=True, check=True).stdout


@needs_ext4
def test_bundles_are_on_the_disk_under_their_own_paths(vm: ModuleType, tmp_path: Path) -> None:
    bundle, program = tmp_path / "cilium-1.2.3", tmp_path / "etcd"
    (bundle / "bin").mkdir(parents=True)
    (bundle / "bin" / "cilium-agent").write_text("agent")
    (bundle / "bin" / "clang").symlink_to("/usr/bin/clang")
    (tmp_path / "etcd-3").write_text("etcd")
    program.symlink_to("etcd-3")
    bundles = vm.Bundles({"NICLAB_CILIUM": str(bundle)}, [bundle, program], Path("/clang"), Path("/clang"))
    vm.make_disk(bundles)
    assert debugfs(bundles.disk, f"cat {bundle}/bin/cilium-agent") == "agent"
    assert '"/usr/bin/clang"' in debugfs(bundles.disk, f"stat {bundle}/bin/clang")
    assert debugfs(bundles.disk, f"cat {program}") == "etcd"
    assert list(vm.CACHE.iterdir()) == [bundles.disk]


@pytest.mark.parametrize(("accelerator", "patience"), [("kvm", "1"), ("tcg", "8")])
def test_the_machine_finds_what_it_brought(
    vm: ModuleType, monkeypatch: pytest.MonkeyPatch, accelerator: str, patience: str
) -> None:
    monkeypatch.delenv("NICLAB_PATIENCE", raising=False)
    bundles = vm.Bundles({"NICLAB_CILIUM": "/b/one:/b/two"}, [Path("/b/one")], Path("/clang"), Path("/clang"))
    with_agents = vm.Machine(Path("/boot/vmlinuz-1"), Path("/initrd"), accelerator, bundles)
    text = vm.init(Path("/python"), with_agents, ["lab"])
    assert f"NICLAB_CILIUM=/b/one:/b/two NICLAB_OBJECTS=off NICLAB_PATIENCE={patience}\n" in text
    assert "--datapath" not in text
    monkeypatch.setenv("NICLAB_PATIENCE", "20")
    assert "NICLAB_PATIENCE=20\n" in vm.init(Path("/python"), with_agents, ["lab"])
    without = vm.Machine(Path("/boot/vmlinuz-1"), Path("/initrd"), accelerator, None)
    text = vm.init(Path("/python"), without, ["lab"])
    assert "--datapath builtin" in text
    assert "/disk" not in text


def test_a_link_to_the_disk_does_not_hide_what_the_machine_boots_with(vm: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "libc.so").write_text("whole")
    archive = io.BytesIO()
    vm.write_archive(archive, [("lib/libc.so", tmp_path / "libc.so"), ("lib/libc.so", "-> /disk/lib/libc.so")])
    assert b"whole" in archive.getvalue()
    assert b"/disk/lib" not in archive.getvalue()


def test_images_are_not_brought(vm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "ASK", 'print(\'[{}, "", "", true]\')')
    with pytest.raises(RuntimeError, match="name directories with bin/ and bpf/"):
        vm.brought(Path(sys.executable))


def test_a_variable_that_names_nothing_is_complained_of(vm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NICLAB_CILIUM", "/nowhere/at/all")
    with pytest.raises(RuntimeError, match=r"cannot be used|/nowhere/at/all"):
        vm.brought(Path(sys.executable))


def test_bytecode_of_this_source_is_taken_along_and_loads_without_its_time(vm: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("answer = 42\n")
    tag = sys.implementation.cache_tag
    assert vm.bytecode(source, tag) is None
    py_compile.compile(str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    code = vm.bytecode(source, tag)
    there = tmp_path / "there"
    place = vm.cached(there / "module.py", tag)
    place.parent.mkdir(parents=True)
    place.write_bytes(code)
    (there / "module.py").write_text("raise AssertionError('compiled again')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import module; print(module.answer)"],
        cwd=there,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "42\n"
    source.write_text("answer = 43 # another size\n")
    assert vm.bytecode(source, tag) is None


def test_what_is_asked_of_the_compiler_inside_is_compiled_outside(
    vm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Its arguments, directory and files get there; what it prints and its status come back."""
    inside, compiler = tmp_path / "run" / "state", tmp_path / "compiler"
    (tmp_path / "run" / "include").mkdir(parents=True)
    inside.mkdir()
    (tmp_path / "run" / "program.c").write_text("program ")
    (tmp_path / "run" / "include" / "config.h").write_text("header ")
    (inside / "notes.txt").write_text("no source")
    compiler.write_text(
        '#!/bin/sh\nfor last; do :; done\ncat "$last" "${1#-I}/config.h"\npwd\n'
        f"ls >&2\nfind {tmp_path}/place -type f | wc -l\nexit 3\n"
    )
    compiler.chmod(0o755)
    monkeypatch.chdir(inside)
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    served = threading.Thread(target=vm.vm_compiler.serve, args=(theirs, tmp_path / "place", compiler))
    served.start()
    stream = ours.makefile("rb")
    # The answer to a compiler that was killed before it came.
    ours.sendall(vm.vm_compiler._REQUEST.pack(b"another1", 15, 0) + b'["/gone",[],[]]')
    arguments = [f"-I{tmp_path}/run/include", "-c", f"{tmp_path}/run/program.c"]
    sent = tmp_path / "sent"
    for text in ("header", "changed"):
        (tmp_path / "run" / "include" / "config.h").write_text(f"{text} ")
        assert vm.vm_compiler.ask(arguments, sent, ours.sendall, stream.read) == 3
        printed = capfdbinary.readouterr()
        assert printed.out.decode() == f"program {text} {tmp_path}/place{inside}\n2\n"
        assert printed.err == b""
    # Sources that did not change went once.
    assert [Path(line.split()[0]).name for line in sent.read_text().splitlines()] == [
        "config.h",
        "program.c",
        "config.h",
    ]
    ours.shutdown(socket.SHUT_RDWR)
    served.join(10)
    assert not served.is_alive()
