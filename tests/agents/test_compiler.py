"""What stands before the compiler: it hands over what was compiled from the same, and is not there otherwise."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from niclab.agents import compiler

from tests.support.busy import PATIENCE, wait_for

# Preprocesses by printing its source and the arguments' include directories; says what it does in `calls`. A source's
# first word tells it to fail, to warn or to be slow.
_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exec echo "stand-in 19"
for word; do [ "$previous" = -c ] && source=$word; [ "$word" = -E ] && preprocesses=yes; previous=$word; done
if [ "$preprocesses" ]; then
    case $(cat "$source") in opaque*) echo half; exit 1 ;; esac
    for word; do case $word in -I*) echo "# 1 \\"${{word#-I}}/ep_config.h\\"" ;; esac; done
    exec cat "$source"
fi
echo "$@" >>{calls}
case $(cat "$source") in
fail*) echo "error: as told" >&2; echo half; exit 3 ;;
warn*) echo "warning: as told" >&2 ;;
slow*) sleep 0.3 ;;
hang*) echo $$ >{calls}.pid && exec sleep 60 ;;
change*) echo "slow later" >"$source" ;;
esac
printf 'object of '; cat "$source"
"""


class Kit:
    """A stand-in compiler, and what stands before it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        self.calls.touch()
        self.objects = directory / "objects"
        self.objects.mkdir()
        self.source = directory / "bpf_lxc.c"
        self.compiler = directory / "clang-19"
        self.compiler.write_text(_COMPILER.format(calls=self.calls))
        self.compiler.chmod(0o755)
        self.wrapper = directory / "clang"
        self.install(compiler.identity(self.compiler))

    def install(self, identity: str) -> None:
        self.wrapper.write_text(compiler.wrapper(self.compiler, identity, self.objects))
        self.wrapper.chmod(0o755)

    def compile(self, text: str, *arguments: str, output: str = "-") -> subprocess.CompletedProcess[str]:
        self.source.write_text(text)
        return self.compile_as_it_is(*arguments, output=output)

    def compile_as_it_is(self, *arguments: str, output: str = "-") -> subprocess.CompletedProcess[str]:
        """Several at once may do that: the source is only read."""
        line = self.line(*arguments, output=output)
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=self.directory)

    def line(self, *arguments: str, output: str = "-") -> list[str]:
        return [str(self.wrapper), *arguments, "-O2", "-c", str(self.source), "-o", output]

    def start(self, text: str) -> subprocess.Popen[bytes]:
        self.source.write_text(text)
        return subprocess.Popen(self.line(), stdout=subprocess.DEVNULL, cwd=self.directory)

    @property
    def compiled(self) -> int:
        return len(self.calls.read_text().splitlines())

    @property
    def kept(self) -> list[str]:
        return sorted(path.suffix for path in self.objects.iterdir())


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_the_same_is_compiled_once(kit: Kit) -> None:
    first, second = kit.compile("int x;"), kit.compile("int x;")
    assert first.stdout == second.stdout == "object of int x;"
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
    assert kit.compiled == 1
    assert kit.kept == [".o"]


@pytest.mark.parametrize("what", ["text", "argument", "include directory", "compiler", "working directory"])
def test_whatever_the_compiler_depends_on_tells_objects_apart(kit: Kit, what: str, tmp_path: Path) -> None:
    kit.compile("int x;", "-Ione")
    match what:
        case "text":
            assert kit.compile("int y;", "-Ione").stdout == "object of int y;"
        case "argument":
            kit.compile("int x;", "-Ione", "-DENABLE_IPV6")
        case "include directory":
            kit.compile("int x;", "-Itwo")
        case "compiler":
            kit.install("another build")
            kit.compile("int x;", "-Ione")
        case "working directory":
            kit.directory = tmp_path / "elsewhere"
            kit.directory.mkdir()
            kit.compile("int x;", "-Ione")
    assert kit.compiled == 2


def test_the_directory_of_a_template_does_not(kit: Kit) -> None:
    """It is named by a hash over the node's configuration, with what differs from lab to lab."""
    for number in ("0", "f"):
        assert kit.compile("int x;", f"-I/var/run/cilium/state/templates/{number * 64}").stdout == "object of int x;"
    assert kit.compiled == 1
    kit.compile("int x;", f"-I/var/run/cilium/state/templates/{'0' * 63}")
    assert kit.compiled == 2


def test_a_failure_is_passed_on_and_not_kept(kit: Kit) -> None:
    for _ in range(2):
        done = kit.compile("fail")
        assert (done.returncode, done.stdout, done.stderr) == (3, "half\n", "error: as told\n")
    assert kit.compiled == 2
    assert kit.kept == []


def test_warnings_are_passed_on_every_time(kit: Kit) -> None:
    for _ in range(2):
        done = kit.compile("warn")
        assert (done.returncode, done.stdout, done.stderr) == (0, "object of warn", "warning: as told\n")
    assert kit.compiled == 2
    assert kit.kept == []


def test_two_at_once_compile_once(kit: Kit) -> None:
    kit.source.write_text("slow")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: kit.compile_as_it_is(), range(2)))
    assert [one.stdout for one in done] == ["object of slow"] * 2
    assert kit.compiled == 1


def test_who_waits_for_one_that_fails_compiles_itself(kit: Kit) -> None:
    kit.compile("slow")
    name = next(path.stem for path in kit.objects.iterdir())
    (kit.objects / f"{name}.o").unlink()
    lock = kit.objects / f"{name}.lock"
    with lock.open("w") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        inode = f":{os.fstat(held.fileno()).st_ino} "
        compiled = pool.submit(kit.compile_as_it_is)
        wait_for(lambda: any("->" in each and inode in each for each in Path("/proc/locks").read_text().splitlines()))
        assert kit.compiled == 1
        fcntl.flock(held, fcntl.LOCK_UN)
        assert compiled.result().stdout == "object of slow"
    assert kit.compiled == 2


def test_sources_that_change_while_they_are_compiled_are_not_kept(kit: Kit) -> None:
    assert kit.compile("change").stdout == "object of slow later\n"
    assert kit.kept == []


def test_what_cannot_be_preprocessed_is_never_handed_over(kit: Kit) -> None:
    """The text breaks off at the same place whatever comes behind it."""
    assert [kit.compile(f"opaque {number}").stdout for number in (1, 2)] == ["object of opaque 1", "object of opaque 2"]
    assert kit.kept == []


def test_a_killed_compilation_leaves_no_half_and_blocks_nobody(kit: Kit) -> None:
    process = kit.start("slow")
    wait_for(lambda: kit.compiled)
    process.kill()
    process.wait()
    assert kit.compile("slow").stdout == "object of slow"
    assert kit.compiled == 2
    old = time.time() - 7200
    for path in kit.objects.iterdir():
        os.utime(path, (old, old))
    compiler.trim(kit.objects)
    assert kit.kept == [".o"]


def test_the_compiler_ends_with_what_stands_before_it(kit: Kit) -> None:
    """An agent kills what it has started, and knows of nothing behind it."""
    process = kit.start("hang")
    pid = kit.calls.with_suffix(".pid")
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    handle = os.pidfd_open(int(pid.read_text()))
    process.kill()
    process.wait()
    assert select.select([handle], [], [], PATIENCE)[0]
    os.close(handle)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["--version"], "stand-in 19\n"),
        (["-E", "-c", "SOURCE", "-o", "-"], "int x;"),
        (["-c", "SOURCE", "-o", "FILE"], "object of int x;"),
    ],
)
def test_anything_else_goes_to_the_compiler(kit: Kit, arguments: list[str], reported: str) -> None:
    kit.source.write_text("int x;")
    line = [str(kit.wrapper), *(str(kit.source) if word == "SOURCE" else word for word in arguments)]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == reported
    assert kit.kept == []


def test_without_a_place_to_keep_objects_everything_is_compiled(kit: Kit) -> None:
    kit.objects.rmdir()
    assert [kit.compile("int x;").stdout for _ in range(2)] == ["object of int x;"] * 2
    assert kit.compiled == 2


def test_a_room_without_the_tools_compiles(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may lack flock or sha256sum."""
    tools = kit.directory / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "mktemp", "rm", "sed"):
        (tools / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tools))
    done = kit.compile("int x;")
    assert (done.returncode, done.stdout) == (0, "object of int x;")


def test_trimming_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    for age in range(4):
        path = tmp_path / f"{age}.o"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "fresh.lock").touch()
    compiler.trim(tmp_path, limit=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.o", "1.o", "fresh.lock"]


def test_what_is_used_counts_as_young(kit: Kit) -> None:
    for text in ("int x;", "int y;"):
        kit.compile(text)
    for path in kit.objects.iterdir():
        os.utime(path, (1000, 1000))
    kit.compile("int x;")
    compiler.trim(kit.objects, limit=len("object of int x;"))
    kit.compile("int x;")
    assert kit.compiled == 2


def test_where_objects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    assert compiler.directory() == tmp_path / "home" / "objects"
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "mine"))
    assert compiler.directory() == tmp_path / "mine"
    monkeypatch.setenv(compiler.VARIABLE, "off")
    assert compiler.directory() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "file" / "below"))
    assert compiler.directory() is None


def test_a_compiler_is_told_by_its_files_and_libraries(tmp_path: Path) -> None:
    program, library = tmp_path / "bin" / "clang", tmp_path / "lib" / "libLLVM.so.19.1"
    for path in (program, library):
        path.parent.mkdir()
        path.write_text("1")
    link = tmp_path / "clang-19"
    link.symlink_to(program)
    before = compiler.identity(program)
    assert compiler.identity(link) == before
    library.write_text("another")
    assert compiler.identity(program) != before


def test_trimming_while_others_compile_breaks_nothing(kit: Kit) -> None:
    done = threading.Event()

    def trim() -> None:
        while not done.is_set():
            compiler.trim(kit.objects, limit=0)

    with ThreadPoolExecutor(1) as pool:
        trimming = pool.submit(trim)
        try:
            results = [kit.compile("int x;") for _ in range(10)]
        finally:
            done.set()
        trimming.result()
    assert {(one.returncode, one.stdout) for one in results} == {(0, "object of int x;")}
