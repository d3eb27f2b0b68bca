#!/usr/bin/env python3
"""Runs pytest in a virtual machine with Debian's cloud kernel, which has what this machine's kernel may lack.

    scripts/vm.py                                          # what needs bonds, VLANs, VRFs or dummies
    scripts/vm.py lab/scenarios/test_mtu.py -k tunnel      # any others: the arguments are pytest's
    NICLAB_KERNEL=DIR scripts/vm.py                        # DIR/boot/vmlinuz-VERSION, DIR/lib/modules/VERSION
    NICLAB_CILIUM=DIR scripts/vm.py lab/scenarios/test_bond_and_vlan.py --control-plane kvstore   # real agents

The machine is its initial RAM disk: this Python, this project, and the programs they call, as they are here. Nothing is
written outside the cache. The machine shares nothing with this one, and has no network. `scripts/setup vm` is called
first: it installs qemu-system-x86 and kmod, or says so. The kernel, linux-image-cloud-amd64, is fetched once with
apt-get download. Uses KVM where that answers.

What NICLAB_CILIUM and NICLAB_KUBERNETES name is brought along on a disk (directory bundles, not images), and etcd. The
compiler of agents is this machine's (vm_compiler.py), and what it has compiled is kept in `$NICLAB_HOME/objects`. Every
deadline there is NICLAB_PATIENCE times as long, by default 8 times without KVM.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import vm_compiler

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "niclab" / "vm"
SOCKET = CACHE / "compiler"
PROGRAMS = """
bash sh cat chmod cp cut date dirname env false find grep head id kill ln ls mkdir mktemp mount mv nsenter rm sed sleep
sort sysctl tail test touch tr true umount uname unshare ip tc nft iptables modprobe
"""
OF_AGENTS = """
ip6tables ip6tables-restore ip6tables-save ipset iptables-restore iptables-save
"""
"""Programs that agents call."""
LEFT_OUT = re.compile(
    r"/(__pycache__|tests?|idlelib|tkinter|turtledemo|ensurepip|lib2to3|mypy|mypyc|ruff|pip|config-3[^/]*)$"
    r"|\.(a|pyc)$|__mypyc\."
)
DEFAULT = [
    "lab/scenarios/test_bond_and_vlan.py",
    "lab/scenarios/test_egress_on_vlan.py",
    "tests/mutations",
    "-k",
    "bond or vlan or vrf or stacked",
]
ALWAYS = ["--color", "no", "-p", "no:cacheprovider", "--artifacts", "/tmp/artifacts", "--basetemp", "/tmp/pytest"]
"""A terminal that is a serial line."""
BUILTIN = ["--datapath", "builtin", "--timeout", "600"]
AGENTS = ["--timeout", "3600"]
KVM_DEADLINE = 15.0
"""Seconds for the kernel's first words under KVM; a /dev/kvm that is there may hang for ever."""
DEADLINE = 900.0
"""Seconds for a machine without agents; with agents it has LONGEST."""
LONGEST = 7200.0
EMULATED = 8
"""How many times as long as elsewhere is waited for agents on an emulated processor."""
DISK = "/disk"
SPARE = 64 << 20
"""Bytes for the file system itself."""
ASK = """
import json, os, sys
from niclab.agents import compiler
from niclab.agents.bundle import CILIUM, KUBERNETES, every
from niclab.errors import LabError
from niclab.host.process import search_path
try:
    named = {product.variable: every(product) for product in (CILIUM, KUBERNETES) if os.environ.get(product.variable)}
except LabError as error:
    sys.exit(f"{error.what}: {error.why}")
clang, objects = compiler.newest("clang", search_path()), compiler.directory()
text = compiler.wrapper(clang, compiler.identity(clang), objects) if clang and objects else ""
found = {variable: [str(one.path) for one in bundles] for variable, bundles in named.items()}
images = any(one.kind == "image" for bundles in named.values() for one in bundles)
print(json.dumps([found, str(clang or ""), text, images]))
"""
"""Asks niclab what its variables name, for the compiler, and for what stands before it to keep what it compiles."""
EXIT = re.compile(r"^niclab-vm: exit (\d+)", re.MULTILINE)
READY = "niclab-vm: up"


def main() -> int:
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    subprocess.run([ROOT / "scripts" / "setup", "vm"], check=False, stdin=subprocess.DEVNULL)
    if missing := [name for name in ("qemu-system-x86_64", "depmod", "ldd") if not shutil.which(name)]:
        return complain(f"{', '.join(missing)} missing: apt-get install --no-install-recommends qemu-system-x86 kmod")
    python = Path(os.environ.get("NICLAB_PYTHON", ROOT / ".venv" / "bin" / "python"))
    if not python.exists():
        return complain(f"no {python}: run scripts/setup first, or say NICLAB_PYTHON=…/bin/python")
    CACHE.mkdir(parents=True, exist_ok=True)
    kernel = Path(os.environ["NICLAB_KERNEL"]) if "NICLAB_KERNEL" in os.environ else fetched_kernel()
    image = next(kernel.glob("boot/vmlinuz-*"))
    try:
        bundles = brought(python) if os.environ.get("NICLAB_CILIUM") else None
    except RuntimeError as error:
        return complain(str(error))
    initrd = CACHE / "initrd"
    for accelerator in ("kvm", "tcg") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("tcg",):
        machine = Machine(image, initrd, accelerator, bundles)
        with initrd.open("wb") as file:
            write_archive(file, files(kernel, python, machine, sys.argv[1:] or default(bundles)))
        if bundles is not None:
            make_disk(bundles)
        status = boot(machine)
        if status is not None:
            return status
    return complain("the machine did not come up, or did not end")


def default(bundles: Bundles | None) -> list[str]:
    """Mutations are the built-in model's: with agents each would take minutes."""
    return [one for one in DEFAULT if bundles is None or one != "tests/mutations"]


def complain(words: str) -> int:
    print(f"scripts/vm.py: {words}", file=sys.stderr)
    return 2


def fetched_kernel() -> Path:
    """Debian's newest cloud kernel, unpacked in the cache."""
    if found := sorted(CACHE.glob("kernel/*/boot/vmlinuz-*")):
        return found[-1].parent.parent
    reported = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
    ).stdout
    package = re.search(r"Depends: (linux-image-\S+)", reported)
    assert package is not None
    target = CACHE / "kernel" / package[1]
    # Unpacked beside its place and renamed: an interrupted run leaves no half kernel that the next one would take.
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetching-") as directory:
        subprocess.run(["apt-get", "download", package[1]], cwd=directory, check=True)
        archive = next(Path(directory).glob(f"{package[1]}_*.deb"))
        unpacked = Path(directory, "kernel")
        subprocess.run(["dpkg", "-x", archive, unpacked], check=True)
        version = next(unpacked.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
        subprocess.run(["depmod", "-b", unpacked, version], check=True)
        target.parent.mkdir(exist_ok=True)
        unpacked.rename(target)
    return target


@dataclass(frozen=True)
class Bundles:
    """What real agents need in the machine. `variables`: what niclab's variables are to be there."""

    variables: dict[str, str]
    paths: list[Path]
    """Files and directories that are on the disk, and where they are here in the machine."""
    clang: Path
    """What its name is there; here `compiler` is called for it."""
    compiler: Path
    disk: Path = CACHE / "disk"


@dataclass(frozen=True)
class Machine:
    image: Path
    initrd: Path
    accelerator: str
    bundles: Bundles | None

    @property
    def version(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")


def brought(python: Path) -> Bundles:
    """What NICLAB_CILIUM and NICLAB_KUBERNETES name, and what it needs. Raises RuntimeError."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lab")}
    asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, env=environment, check=False)
    if asked.returncode != 0:
        raise RuntimeError(asked.stderr.strip().splitlines()[-1])
    named, clang, wrapper, images = json.loads(asked.stdout)
    if images:
        raise RuntimeError("images cannot be brought along: name directories with bin/ and bpf/")
    for program, package in (("mke2fs", "e2fsprogs"), ("etcd", "etcd-server")):
        if not shutil.which(program):
            raise RuntimeError(f"{program} missing: apt-get install {package}")
    if not clang:
        raise RuntimeError("clang missing: apt-get install clang-19 llvm-19")
    compiler = Path(clang)
    if wrapper:
        compiler = CACHE / "clang"
        compiler.write_text(wrapper)
        compiler.chmod(0o755)
    paths = [Path(one) for ones in named.values() for one in ones]
    paths += [Path(one) for one in [shutil.which("etcd")] if one]
    return Bundles({name: ":".join(ones) for name, ones in named.items()}, paths, Path(clang), compiler)


def make_disk(bundles: Bundles) -> None:
    """An ext4 image with everything under its own path, as mke2fs makes it of a directory: nothing is mounted here."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="disk-") as directory:
        staged = Path(directory)
        for path in bundles.paths:
            place = staged / str(path).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, copy_function=link)
            else:
                link(path.resolve(), place)
        measured = subprocess.run(["du", "-sk", staged], capture_output=True, text=True, check=True)
        with bundles.disk.open("wb") as file:
            file.truncate((int(measured.stdout.split()[0]) * 5 // 4 << 10) + SPARE)
        made = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(staged)]
        subprocess.run([*made, str(bundles.disk)], check=True)


def link(source: Path | str, target: Path | str) -> None:
    """A second name where that can be: bundles are half a gigabyte."""
    source = Path(source)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def files(
    kernel: Path, python: Path, machine: Machine, arguments: list[str]
) -> Iterator[tuple[str, Path | bytes | str]]:
    """(place, what it is) of every file: a path here to copy, bytes to write, or `-> TARGET` for a symbolic link."""
    version, bundles = machine.version, machine.bundles
    modules = kernel / "lib" / "modules" / version
    wanted = "drivers/net|net|lib|crypto" + ("|drivers/virtio|drivers/block|drivers/char" if bundles else "")
    for one in tree(modules):
        if re.search(rf"/(modules\.[^/]*|({wanted})/.*)$", str(one.relative_to(modules.parent))):
            yield f"lib/modules/{version}/{one.relative_to(modules)}", one
    asked = [
        str(python),
        "-c",
        "import sys, sysconfig; print(sysconfig.get_path('stdlib'), sys.implementation.cache_tag)",
    ]
    place, tag = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    library = Path(place)
    names = [*PROGRAMS.split(), *(OF_AGENTS.split() if bundles else ())]
    programs = {name: Path(path) for name in names if (path := shutil.which(name))}
    real = python.resolve()
    copied = [real, *tree(python.parent.parent), *project()]
    copied += [one for one in tree(library) if "site-packages" not in one.parts]
    if bundles is not None:
        # Extensions of iptables, and what Cilium reads of a kernel.
        copied += [one for directory in Path("/usr/lib").glob("*/xtables") for one in tree(directory)]
        yield from ((f"boot/{one.name}", one) for one in (kernel / "boot").glob(f"config-{version}"))
    if str(python.parent / "python") != str(real):
        yield from ((str(python.parent / name).lstrip("/"), f"-> {real}") for name in ("python", "python3"))
    for name, program in programs.items():
        yield f"usr/bin/{name}", program.resolve()
    seen: set[Path] = set()
    for one in [*copied, *libraries([real, *programs.values(), *(one for one in copied if ".so" in one.name)])]:
        if one not in seen:
            seen.add(one)
            yield str(one).lstrip("/"), one
            if one.suffix == ".py" and (code := bytecode(one, tag)):
                yield str(cached(one, tag)).lstrip("/"), code
    # After the rest: what is needed before the disk is there, and on it too, is not a link.
    if bundles is not None:
        yield from ((str(path).lstrip("/"), f"-> {DISK}{path}") for path in bundles.paths)
        text = f"#!{python} -IS\n{Path(vm_compiler.__file__).read_text()}"
        yield str(bundles.clang).lstrip("/"), text.encode()
    for name in ("bin", "sbin", "usr/sbin"):
        yield name, f"-> {'/usr/bin' if name != 'usr/sbin' else 'bin'}"
    # Where agents keep their sockets: each node has a /run of its own.
    yield "var/run", "-> /run"
    yield "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"
    yield "etc/protocols", Path("/etc/protocols").read_bytes() if Path("/etc/protocols").exists() else b""
    yield "init", init(python, machine, arguments).encode()


def init(python: Path, machine: Machine, arguments: list[str]) -> str:
    started = [str(python), "-m", "pytest", *ALWAYS, *(AGENTS if machine.bundles else BUILTIN), *arguments]
    return f"""#!/bin/bash
export PATH=/usr/bin HOME=/root NICLAB_IN_VM=1 PYTHONPATH={shlex.quote(str(ROOT / "lab"))}
mkdir -p /proc /sys /dev /run /tmp /root /var/lib
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t tmpfs run /run
ln -sf /proc/self/fd /dev/fd; mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
ip link set lo up
{preparations(machine)}
echo "{READY}: Linux $(uname -r)"
cd {shlex.quote(str(ROOT))}
{shlex.join(started)}
echo "niclab-vm: exit $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def preparations(machine: Machine) -> str:
    """What real agents need beyond that, as lines of a shell."""
    if machine.bundles is None:
        return ""
    patience = os.environ.get("NICLAB_PATIENCE") or ("1" if machine.accelerator == "kvm" else str(EMULATED))
    variables = {**machine.bundles.variables, "NICLAB_OBJECTS": "off", "NICLAB_PATIENCE": patience}
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"""modprobe -a virtio_pci virtio_blk virtio_console; mkdir -p {DISK}; mount -t ext4 -o ro /dev/vda {DISK}
export {exported}"""


def cached(source: Path, tag: str) -> Path:
    return source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"


def bytecode(source: Path, tag: str) -> bytes | None:
    """What this Python has compiled of a module, for a machine that has no times of files: an emulated one spends most
    of a start on it. As unchecked hash-based bytecode (PEP 552); None where there is none of this source."""
    try:
        code, status = cached(source, tag).read_bytes(), source.stat()
    except OSError:
        return None
    flags, written, size = struct.unpack_from("<III", code, 4)
    if flags or written != int(status.st_mtime) & 0xFFFFFFFF or size != status.st_size & 0xFFFFFFFF:
        return None
    return code[:4] + struct.pack("<IQ", 1, 0) + code[16:]


def tree(directory: Path) -> Iterator[Path]:
    """Every file below, but for what a test run never opens."""
    for one in sorted(directory.iterdir()):
        if LEFT_OUT.search(str(one)) and str(one) != str(ROOT / "tests"):
            continue
        if one.is_dir() and not one.is_symlink():
            yield from tree(one)
        else:
            yield one


def project() -> Iterator[Path]:
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    yield from (ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file())


def libraries(programs: list[Path]) -> list[Path]:
    """The shared libraries of all these, the loader among them, where the loader will look."""
    reported = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return [Path(name) for name in dict.fromkeys(re.findall(r"(/\S+) \(0x", reported))]


def write_archive(file: BinaryIO, entries: Iterable[tuple[str, Path | bytes | str]]) -> None:
    """A `newc` cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst), its directories made up."""
    made: set[str] = set()
    number = 0

    def put(name: str, mode: int, data: bytes) -> None:
        nonlocal number
        number += 1
        encoded = name.encode() + b"\0"
        numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % one for one in numbers) + encoded
        file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    put("dev", stat.S_IFDIR | 0o755, b"")
    for name, what in entries:
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                put(str(parent), stat.S_IFDIR | 0o755, b"")
        if name in made:
            continue
        made.add(name)
        if isinstance(what, str):
            put(name, stat.S_IFLNK | 0o777, what.removeprefix("-> ").encode())
        elif isinstance(what, bytes):
            put(name, stat.S_IFREG | 0o755, what)
        elif what.is_symlink() and name == str(what).lstrip("/") and ".so" not in what.name:
            # A library is asked for by the name of a link to it: a copy under that name will do.
            put(name, stat.S_IFLNK | 0o777, str(what.readlink()).encode())
        else:
            put(name, stat.S_IFREG | 0o755, what.read_bytes())
    put("TRAILER!!!", 0, b"")


def compile_for(process: subprocess.Popen[bytes], compiler: Path) -> None:
    """Serve the machine that this process is."""
    with socket.socket(socket.AF_UNIX) as connection:
        while process.poll() is None:
            try:
                connection.connect(str(SOCKET))
            except OSError:
                time.sleep(0.05)
            else:
                vm_compiler.serve(connection, CACHE / "sources", compiler)


def boot(machine: Machine) -> int | None:
    """pytest's exit status; None when this accelerator shows no life, or the machine does not end."""
    accelerator, bundles = machine.accelerator, machine.bundles
    command = ["qemu-system-x86_64", "-accel", accelerator, "-m", "4G" if bundles else "3G", "-smp", "2"]
    command += ["-nographic", "-no-reboot", "-nic", "none", "-cpu", "host" if accelerator == "kvm" else "max"]
    command += ["-kernel", str(machine.image), "-initrd", str(machine.initrd)]
    command += ["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]
    if bundles is not None:
        command += ["-drive", f"file={bundles.disk},if=virtio,format=raw,readonly=on"]
        command += ["-chardev", f"socket,id=compiler,path={SOCKET},server=on,wait=off", "-device", "virtio-serial-pci"]
        command += ["-device", "virtserialport,chardev=compiler"]
        SOCKET.unlink(missing_ok=True)
    deadline = LONGEST if bundles else DEADLINE
    log = CACHE / "console"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    began, shown = time.monotonic(), 0
    if bundles is not None:
        threading.Thread(target=compile_for, args=(process, bundles.compiler), daemon=True).start()
    try:
        while True:
            text = log.read_text(errors="replace")
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)
            if found := EXIT.search(text):
                return int(found[1])
            took = time.monotonic() - began
            dead = process.poll() is not None or took > deadline
            if dead or (accelerator == "kvm" and READY not in text and took > KVM_DEADLINE):
                print(f"scripts/vm.py: no life with {accelerator} after {took:.0f} s", file=sys.stderr)
                return None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
