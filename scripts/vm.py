#!/usr/bin/env python3
"""Runs pytest in a virtual machine with Debian's cloud kernel, which has what this machine's kernel may lack.

    scripts/vm.py                                          # what needs bonds, VLANs, VRFs or dummies
    scripts/vm.py lab/scenarios/test_mtu.py -k tunnel      # any others: the arguments are pytest's
    NICLAB_KERNEL=DIR scripts/vm.py                        # DIR/boot/vmlinuz-VERSION, DIR/lib/modules/VERSION

The machine is its initial RAM disk: this Python, this project, and the programs they call, as they are here. Nothing is
written outside the cache. The machine shares nothing with this one, and has no network. `scripts/setup vm` is called
first: it installs qemu-system-x86 and kmod, or says so. The kernel, linux-image-cloud-amd64, is fetched once with
apt-get download. Uses KVM where that answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "niclab" / "vm"
PROGRAMS = """
bash sh cat chmod cp cut date dirname env false find grep head id kill ln ls mkdir mktemp mount mv nsenter rm sed sleep
sort sysctl tail test touch tr true umount uname unshare ip tc nft iptables modprobe
"""
LEFT_OUT = re.compile(
    r"/(__pycache__|tests?|idlelib|tkinter|turtledemo|ensurepip|lib2to3|mypy|mypyc|ruff|pip|config-3[^/]*)$"
    r"|\.(a|pyc)$|__mypyc\."
)
DEFAULT = [
    "lab/scenarios/test_bond_and_vlan.py",
    "tests/mutations",
    "-k",
    "bond or vlan or vrf or stacked",
]
ALWAYS = ["--datapath", "builtin", "--color", "no", "-p", "no:cacheprovider"]
"""No eBPF, no bundles; and a terminal that is a serial line."""
PLACES = ["--timeout", "600", "--artifacts", "/tmp/artifacts", "--basetemp", "/tmp/pytest"]
KVM_DEADLINE = 15.0
"""Seconds for the kernel's first words under KVM; a /dev/kvm that is there may hang for ever."""
DEADLINE = 900.0
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
    disk = CACHE / "initrd"
    with disk.open("wb") as file:
        write_archive(file, files(kernel, image.name.removeprefix("vmlinuz-"), python, sys.argv[1:] or DEFAULT))
    for accelerator in ("kvm", "tcg") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("tcg",):
        status = boot(image, disk, accelerator)
        if status is not None:
            return status
    return complain("the machine did not come up, or did not end")


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


def files(kernel: Path, version: str, python: Path, arguments: list[str]) -> Iterator[tuple[str, Path | bytes | str]]:
    """(place, what it is) of every file: a path here to copy, bytes to write, or `-> TARGET` for a symbolic link."""
    modules = kernel / "lib" / "modules" / version
    for one in tree(modules):
        if re.search(r"/(modules\.[^/]*|(drivers/net|net|lib|crypto)/.*)$", str(one.relative_to(modules.parent))):
            yield f"lib/modules/{version}/{one.relative_to(modules)}", one
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
    library = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    programs = {name: Path(path) for name in PROGRAMS.split() if (path := shutil.which(name))}
    real = python.resolve()
    copied = [real, *tree(python.parent.parent), *project()]
    copied += [one for one in tree(library) if "site-packages" not in one.parts]
    if str(python.parent / "python") != str(real):
        yield from ((str(python.parent / name).lstrip("/"), f"-> {real}") for name in ("python", "python3"))
    for name, program in programs.items():
        yield f"usr/bin/{name}", program.resolve()
    seen: set[Path] = set()
    for one in [*copied, *libraries([real, *programs.values(), *(one for one in copied if ".so" in one.name)])]:
        if one not in seen:
            seen.add(one)
            yield str(one).lstrip("/"), one
    for link in ("bin", "sbin", "usr/sbin"):
        yield link, f"-> {'/usr/bin' if link != 'usr/sbin' else 'bin'}"
    yield "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"
    yield "etc/protocols", Path("/etc/protocols").read_bytes() if Path("/etc/protocols").exists() else b""
    yield "init", init(python, arguments).encode()


def init(python: Path, arguments: list[str]) -> str:
    return f"""#!/bin/bash
export PATH=/usr/bin HOME=/root PYTHONDONTWRITEBYTECODE=1 NICLAB_IN_VM=1 PYTHONPATH={shlex.quote(str(ROOT / "lab"))}
mkdir -p /proc /sys /dev /run /tmp /root /var/lib
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t tmpfs run /run
ln -sf /proc/self/fd /dev/fd; mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
ip link set lo up
echo "{READY}: Linux $(uname -r)"
cd {shlex.quote(str(ROOT))}
{shlex.join([str(python), "-m", "pytest", *ALWAYS, *PLACES, *arguments])}
echo "niclab-vm: exit $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


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


def boot(image: Path, disk: Path, accelerator: str) -> int | None:
    """pytest's exit status; None when this accelerator shows no life, or the machine does not end."""
    command = ["qemu-system-x86_64", "-accel", accelerator, "-m", "3G", "-smp", "2", "-nographic", "-no-reboot"]
    command += ["-nic", "none", "-cpu", "host" if accelerator == "kvm" else "max", "-kernel", str(image)]
    command += ["-initrd", str(disk), "-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]
    log = CACHE / "console"
    with log.open("wb") as file:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    began, shown = time.monotonic(), 0
    try:
        while True:
            text = log.read_text(errors="replace")
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)
            if found := EXIT.search(text):
                return int(found[1])
            took = time.monotonic() - began
            dead = machine.poll() is not None or took > DEADLINE
            if dead or (accelerator == "kvm" and READY not in text and took > KVM_DEADLINE):
                print(f"scripts/vm.py: no life with {accelerator} after {took:.0f} s", file=sys.stderr)
                return None
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.wait(0.2)
    finally:
        machine.kill()
        machine.wait()


if __name__ == "__main__":
    sys.exit(main())
