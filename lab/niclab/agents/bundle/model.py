"""What a bundle is: a directory with `bin/` (somebody's build), or the root file system of an image.

A path in an image may be a symbolic link to anywhere. Followed by the host it would lead out of the image, so links are
followed here (`inside`), with the image's root as `/`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from niclab.cilium.version import minor_of, printed_release
from niclab.errors import LabError
from niclab.host import process, userns

Kind: TypeAlias = Literal["directory", "image"]
ROOTFS = "rootfs"
_BPF = Path("/var/lib/cilium/bpf")
_PLACES = [Path(place) for place in ("/usr/bin", "/usr/local/bin", "/opt/cni/bin", "/bin", "/")]
"""Where programs lie in images."""
_LINKS = 40
"""As many as the kernel follows before it calls it a loop."""
_ENTER = """\
import os, sys
try:
    os.chroot(sys.argv[1])
    os.chdir("/")
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(error.strerror)
"""
"""Not `unshare --root`: what the kernel cannot execute that hands to a shell, as if a foreign binary were a script."""
_PATIENCE = 60.0
"""Seconds for `--version`: a binary of 130 MB may have to come from a slow disk first."""


@dataclass(frozen=True, slots=True)
class Companion:
    """One more program a product wants, which is published as an image of its own."""

    noun: str
    programs: tuple[str, ...]
    """Its names; the first is the usual one. `noun` is in the last part of such an image's name."""
    derived: tuple[tuple[str, str], ...] = ()
    """Last part of the product's image name → the companion's."""


@dataclass(frozen=True, slots=True)
class Product:
    """Something that comes in bundles. `variable` names bundles in the environment."""

    name: str
    title: str
    variable: str
    programs: tuple[str, ...]
    """What every bundle has; the first tells the version."""
    repository: str
    example: str
    holds: str
    companion: Companion

    @property
    def program(self) -> str:
        return self.programs[0]

    def ways(self) -> str:
        """How to come by a bundle, for every error that ends without one."""
        return (
            f"niclab {self.name} pull {self.example}; on a machine without a network niclab {self.name} load IMAGE.tar "
            f"(`docker save` or an OCI archive), or niclab {self.name} add NAME DIR (a directory with {self.holds})"
        )


CILIUM = Product(
    name="cilium",
    title="Cilium",
    variable="NICLAB_CILIUM",
    programs=("cilium-agent", "cilium-cni", "cilium-dbg"),
    repository="quay.io/cilium/cilium",
    example="1.18.3",
    holds="bin/ and bpf/",
    companion=Companion(
        "operator",
        ("cilium-operator-generic", "cilium-operator"),
        (("cilium", "operator-generic"), ("cilium-ci", "operator-generic-ci")),
    ),
)
KUBERNETES = Product(
    name="kubernetes",
    title="Kubernetes",
    variable="NICLAB_KUBERNETES",
    programs=("kube-apiserver",),
    repository="registry.k8s.io/kube-apiserver",
    example="1.36.2",
    holds="bin/kube-apiserver",
    companion=Companion("etcd", ("etcd",)),
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Paths of programs are as seen inside `root`; without a root (a directory bundle) they are the host's.

    And what the store knows of it: `digest` of the manifest that was pulled, or that was made of a loaded archive, and
    its companion's; `problem` says why it cannot be used, and is empty otherwise.
    """

    product: Product
    name: str
    version: str
    path: Path
    kind: Kind
    source: str = field(default="", compare=False)
    digest: str = field(default="", compare=False)
    companion_digest: str = field(default="", compare=False)
    when: str = field(default="", compare=False)
    problem: str = field(default="", compare=False)

    @property
    def minor(self) -> str:
        return minor_of(self.version)

    @property
    def root(self) -> Path | None:
        """The image's root file system on the host. Never write into it: mount something over it."""
        return self.path / ROOTFS if self.kind == "image" else None

    @property
    def bpf(self) -> Path:
        """The eBPF sources; its parent is what the agent calls `--lib-dir`."""
        return _BPF if self.root is not None else self.path / "bpf"

    @property
    def companion(self) -> Path | None:
        return self.program(*self.product.companion.programs)

    def program(self, *names: str) -> Path | None:
        """The first of these programs that the bundle has."""
        places = [self.path / "bin"] if self.root is None else _PLACES
        candidates = (place / name for name in names for place in places)
        return next((path for path in candidates if (outer := self.outside(path)) and outer.is_file()), None)

    def outside(self, path: Path | None) -> Path | None:
        """Where the host finds what the bundle names so; None when it is not there."""
        return path if path is None or self.root is None else inside(self.root, path)

    def required(self, name: str) -> Path:
        """One of the product's programs. Raises LabError when somebody removed it meanwhile."""
        found = self.program(name)
        if found is None:
            raise LabError(f"there is no {name} in the bundle {self.name}", why=f"it is missing in {self.path}")
        return found

    def missing(self) -> tuple[str, ...]:
        """What a bundle of this product must hold and this one does not."""
        shown = "bin/" if self.root is None else ""
        lacking = [f"{shown}{name}" for name in self.product.programs if self.program(name) is None]
        bpf = self.outside(self.bpf)
        if self.product is CILIUM and (bpf is None or not bpf.is_dir()):
            lacking.append("bpf/" if self.root is None else f"{self.bpf}/")
        return tuple(lacking)

    def printed_version(self, program: Path) -> str:
        """What `program --version` says. Raises LabError when it does not run.

        A binary may need its own image's libraries; and what was only just fetched has no business on a network.
        """
        entering: tuple[str, ...] = ()
        if self.root is not None:
            user = () if userns.is_able() else ("--user", "--map-root-user")
            entering = ("unshare", *user, "--net", "--", sys.executable, "-I", "-S", "-c", _ENTER, str(self.root))
        where = f"{program} of the image" if self.root else str(program)
        try:
            printed = process.run([*entering, str(program), "--version"], timeout=_PATIENCE)
        except LabError as error:
            fix = f"it must be an executable for {os.uname().machine}"
            raise LabError(f"{where} does not run", why=error.why or error.what, fix=fix) from None
        found = printed_release(printed)
        if found is None:
            raise LabError(f"{where} tells no version", why=f"--version printed: {printed.strip()[:200] or 'nothing'}")
        return found


def inside(root: Path, path: Path | str) -> Path | None:
    """Where `path` of the image lies on the host, all links followed inside `root`; None when it cannot be reached."""
    waiting = list(reversed(PurePosixPath(path).parts))
    here, links = root, 0
    try:
        while waiting:
            part = waiting.pop()
            if part == "/":
                here = root
            elif part == "..":
                here = here.parent if here != root else root
            elif (here / part).is_symlink():
                links += 1
                if links > _LINKS:
                    return None
                waiting += reversed(PurePosixPath((here / part).readlink()).parts)
            else:
                here = here / part
                if not here.exists():
                    return None
    except OSError:
        return None
    return here
