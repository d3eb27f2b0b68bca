"""What a bundle is: a directory with `bin/` (somebody's build), or the root file system of an image."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

from niclab.agents.bundle.rootfs import inside
from niclab.cilium.version import minor_of
from niclab.errors import LabError
from niclab.host import process

Kind: TypeAlias = Literal["directory", "image"]
ROOTFS = "rootfs"
OPERATORS = ("cilium-operator-generic", "cilium-operator")

_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/cni/bin", "/bin", "/")
"""Where programs lie in images."""


@dataclass(frozen=True, slots=True)
class Bundle(ABC):
    """Paths of programs are as seen inside `root`; without a root (a directory bundle) they are the host's."""

    name: str
    version: str
    path: Path
    kind: Kind

    @property
    def minor(self) -> str:
        return minor_of(self.version)

    @property
    def root(self) -> Path | None:
        """The image's root file system on the host. Never write into it: mount something over it."""
        return self.path / ROOTFS if self.kind == "image" else None

    @abstractmethod
    def missing(self) -> tuple[str, ...]:
        """What a bundle of this kind must hold and this one does not."""

    def program(self, *names: str) -> Path | None:
        """The first of these programs that the bundle has."""
        for name in names:
            for place in [Path(self.path, "bin")] if self.root is None else map(Path, _PLACES):
                found = place / name if self.root is None else inside(self.root, place / name)
                if found is not None and found.is_file():
                    return place / name
        return None

    def _required(self, name: str) -> Path:
        found = self.program(name)
        if found is None:
            raise LabError(f"there is no {name} in the bundle {self.name}", why=f"it is missing in {self.path}")
        return found


class CiliumBundle(Bundle):
    """A Cilium version. Its programs raise LabError when somebody removed them meanwhile."""

    __slots__ = ()

    @property
    def agent(self) -> Path:
        return self._required("cilium-agent")

    @property
    def cni(self) -> Path:
        return self._required("cilium-cni")

    @property
    def dbg(self) -> Path:
        return self._required("cilium-dbg")

    @property
    def operator(self) -> Path | None:
        return self.program(*OPERATORS)

    @property
    def bpf(self) -> Path:
        """The eBPF sources; its parent is what the agent calls `--lib-dir`."""
        return Path("/var/lib/cilium/bpf") if self.root is not None else self.path / "bpf"

    def missing(self) -> tuple[str, ...]:
        programs = ("cilium-agent", "cilium-cni", "cilium-dbg")
        lacking = [_shown(self, name) for name in programs if self.program(name) is None]
        bpf = self.bpf if self.root is None else inside(self.root, self.bpf)
        if bpf is None or not bpf.is_dir():
            lacking.append("bpf/" if self.root is None else f"{self.bpf}/")
        return tuple(lacking)


class KubernetesBundle(Bundle):
    """A Kubernetes API server, with etcd when the bundle brings one."""

    __slots__ = ()

    @property
    def apiserver(self) -> Path:
        return self._required("kube-apiserver")

    @property
    def etcd(self) -> Path:
        """The bundle's own etcd (see `etcd_root`), else the system's. Raises LabError when there is neither."""
        own = self.program("etcd")
        if own is not None:
            return own
        system = shutil.which("etcd", path=process.environment()["PATH"])
        if system is None:
            raise LabError(
                "etcd is not installed",
                why=f"the bundle {self.name} brings none",
                fix="apt-get install etcd-server, or a bundle with it: niclab kubernetes pull VERSION --etcd IMAGE",
            )
        return Path(system)

    @property
    def etcd_root(self) -> Path | None:
        """The root file system that `etcd` is a path in; None: the host's."""
        return self.root if self.program("etcd") is not None else None

    def missing(self) -> tuple[str, ...]:
        return () if self.program("kube-apiserver") else (_shown(self, "kube-apiserver"),)


def _shown(bundle: Bundle, name: str) -> str:
    return name if bundle.root is not None else f"bin/{name}"


B = TypeVar("B", bound=Bundle)


@dataclass(frozen=True, slots=True)
class Companion:
    """One more program a product wants, which is published as an image of its own."""

    noun: str
    programs: tuple[str, ...]
    mark: str
    """In the last part of such an image's name."""
    derived: tuple[tuple[str, str], ...] = ()
    """Last part of the product's image name → the companion's."""


@dataclass(frozen=True, slots=True)
class Product(Generic[B]):
    """Something that comes in bundles. `variable` names bundles in the environment."""

    name: str
    title: str
    variable: str
    program: str
    repository: str
    example: str
    holds: str
    companion: Companion
    make: Callable[[str, str, Path, Kind], B]

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
    program="cilium-agent",
    repository="quay.io/cilium/cilium",
    example="1.18.3",
    holds="bin/ and bpf/",
    companion=Companion(
        "operator",
        OPERATORS,
        "operator",
        derived=(("cilium", "operator-generic"), ("cilium-ci", "operator-generic-ci")),
    ),
    make=CiliumBundle,
)
KUBERNETES = Product(
    name="kubernetes",
    title="Kubernetes",
    variable="NICLAB_KUBERNETES",
    program="kube-apiserver",
    repository="registry.k8s.io/kube-apiserver",
    example="1.36.2",
    holds="bin/kube-apiserver",
    companion=Companion("etcd", ("etcd",), "etcd"),
    make=KubernetesBundle,
)
