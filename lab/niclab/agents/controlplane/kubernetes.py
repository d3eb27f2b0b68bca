"""The Kubernetes control plane without kubelet: etcd, kube-apiserver, and Cilium's operator where it is needed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from niclab.agents import kube
from niclab.agents.bundle.store import home
from niclab.agents.controlplane import apiserver, etcd, operator, prepared, program
from niclab.agents.controlplane.plane import Kind
from niclab.agents.kube import NAMESPACE, Object, Service
from niclab.agents.kubeapi import Api
from niclab.errors import LabError
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace
from niclab.net.route import Address, Family, Network

PORTS = (apiserver.PORT,)


class Kubernetes:
    """A ready API server. The lab makes its objects, and plays kubelet's part in their status."""

    kind: Kind = "kubernetes"

    def __init__(self, ledger: Ledger, api: Api, directory: Path, daemons: Sequence[Daemon] = ()) -> None:
        self._ledger = ledger
        self._directory = directory
        self._daemons = daemons
        self.api = api
        """For objects that have no method here, e.g. `api.apply(CiliumBGPClusterConfig)`."""

    @property
    def binds(self) -> tuple[str, ...]:
        return (str(apiserver.shared_of(self._directory)),)

    @property
    def logs(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(self._directory.glob("*.log"))}

    def agent_settings(self, node: str) -> Mapping[str, str]:  # noqa: ARG002 (the same for every node)
        return {
            "k8s-kubeconfig-path": str(apiserver.kubeconfig_of(self._directory)),
            "identity-allocation-mode": "crd",
            "ipam": "kubernetes",
        }

    def agent_environment(self, node: str) -> Mapping[str, str]:
        return {"K8S_NODE_NAME": node, "CILIUM_K8S_NAMESPACE": "kube-system"}

    def add_node(
        self,
        name: str,
        *,
        addresses: Sequence[Address],
        pod_cidrs: Sequence[Network],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.api.apply(kube.node(name, addresses=addresses, pod_cidrs=pod_cidrs, labels=labels or {}))

    def add_pod(
        self,
        name: str,
        node: str,
        *,
        namespace: str = NAMESPACE,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Mapping[str, str]:
        made = self.api.apply(
            kube.pod(name, node, namespace=namespace, labels=labels or {}, annotations=annotations or {})
        )
        return {"CNI_ARGS": kube.cni_arguments(name, made["metadata"]["uid"], namespace=namespace)}

    def pod_running(self, name: str, addresses: Sequence[Address], *, namespace: str = NAMESPACE) -> None:
        # Agents do not take up the address of a pod without those of its node.
        self.api.apply(
            kube.pod_running(name, addresses, namespace=namespace, host_addresses=self._host_of(name, namespace))
        )

    def _host_of(self, pod: str, namespace: str) -> list[Address]:
        found = self.api.get("v1", "Pod", pod, namespace=namespace)
        node = self.api.get("v1", "Node", found["spec"]["nodeName"]) if found else None
        return kube.node_ips(node) if node else []

    def add_service(self, service: Service) -> None:
        self.api.apply_all(service.objects())

    def kinds(self, group: str = "cilium.io") -> frozenset[str]:
        """Every kind of object that the API serves in a group, of any of its versions. Raises LabError."""
        versions = json.loads(self.api.text(f"/apis/{group}"))["versions"]
        served = [json.loads(self.api.text(f"/apis/{one['groupVersion']}"))["resources"] for one in versions]
        return frozenset(str(resource["kind"]) for resources in served for resource in resources)

    def apply(self, objects: Iterable[Object]) -> None:
        self.api.apply_all(objects)

    def close(self) -> None:
        self.api.close()
        if not self._ledger.kept:
            for daemon in self._daemons:
                program.end(daemon)


@dataclass(frozen=True)
class Wanted:
    """What a Kubernetes control plane is made of."""

    etcd: Path
    kubernetes: Path | None
    operator: Path | None
    operator_settings: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()
    families: tuple[Family, ...] = (4,)
    home: Path | None = None
    patience: float = 90.0

    @property
    def needs_operator(self) -> bool:
        return operator.needed(self.features, self.operator_settings)


def apiserver_of(kubernetes: Path) -> Path:
    """The program, given as itself or as the directory of a build."""
    return kubernetes / "bin" / "kube-apiserver" if kubernetes.is_dir() else kubernetes


def start(ledger: Ledger, control: Namespace, directory: Path, *, wanted: Wanted, relay: Daemon) -> Kubernetes:
    """Start everything and return when it is ready. On an error what was started here has ended. Raises LabError."""
    server, cilium = _server(wanted), _operator(wanted)
    store = prepared.Store(wanted.home or home())
    name = _key(wanted, server, cilium)
    with contextlib.ExitStack() as undo:
        starting = _Starting(ledger, control, directory, wanted, undo)
        restored = store.restore(name, starting.data)
        try:
            keeper = starting.etcd()
        except LabError as error:
            if not restored:
                raise
            store.discard(name)
            raise LabError(error.what, why=error.why, fix="its prepared data is discarded: try again") from None
        # Not before: an API server that does not find etcd at once waits for a second.
        serving = starting.apiserver(server)
        api = apiserver.connect(control, directory)
        undo.callback(api.close)
        daemons = [serving, keeper, relay]
        if not restored:
            working = starting.operator(cilium, defines=True)
            operator.wait(working, api, deadline=wanted.patience)
            operator.end(working, api)
            keeper.stop()  # what etcd has written is whole then
            store.save(name, starting.data)
            daemons[1] = starting.etcd()  # the API server finds it again by itself
            starting.wait_for(serving)
        if wanted.needs_operator:
            daemons.insert(0, starting.operator(cilium, defines=False))
        undo.pop_all()
    return Kubernetes(ledger, api, directory, daemons)


@dataclass(frozen=True)
class _Starting:
    """The programs of one control plane; `undo` ends what has been started."""

    ledger: Ledger
    control: Namespace
    directory: Path
    wanted: Wanted
    undo: contextlib.ExitStack

    @property
    def data(self) -> Path:
        return self.directory / "etcd"

    def etcd(self) -> Daemon:
        log = self.directory / "etcd.log"
        found = etcd.start(self.ledger, self.control, etcd=self.wanted.etcd, data=self.data, log=log)
        self.undo.callback(program.end, found)
        etcd.wait(found, self.control, deadline=self.wanted.patience)
        return found

    def apiserver(self, server: Path) -> Daemon:
        found = apiserver.start(
            self.ledger,
            self.control,
            self.directory,
            server=server,
            families=self.wanted.families,
            log=self.directory / "kube-apiserver.log",
        )
        self.undo.callback(program.end, found)
        self.wait_for(found)
        return found

    def wait_for(self, serving: Daemon) -> None:
        apiserver.wait(serving, self.control, self.directory, deadline=self.wanted.patience)

    def operator(self, cilium: Path, *, defines: bool) -> Daemon:
        found = operator.start(
            self.ledger,
            self.control,
            self.directory,
            operator=cilium,
            features=self.wanted.features,
            settings=self.wanted.operator_settings,
            defines=defines,
            log=self.directory / "cilium-operator.log",
        )
        self.undo.callback(program.end, found)
        return found


def attach(ledger: Ledger, control: Namespace, directory: Path) -> Kubernetes:
    """The control plane of a kept lab. Raises LabError."""
    return Kubernetes(ledger, apiserver.connect(control, directory), directory)


def _server(wanted: Wanted) -> Path:
    server = apiserver_of(wanted.kubernetes) if wanted.kubernetes else None
    if server is None or not server.is_file():
        raise LabError(
            "there is no kube-apiserver",
            why=f"{server} is missing" if server else "no Kubernetes bundle is at hand",
            fix="niclab kubernetes pull, load or add; or --control-plane kvstore",
        )
    return server


def _operator(wanted: Wanted) -> Path:
    if wanted.operator is None or not wanted.operator.is_file():
        raise LabError(
            f"there is no cilium-operator-generic{f' at {wanted.operator}' if wanted.operator else ''}",
            why="it creates the definitions that Cilium's agents wait for",
            fix="put it in the bundle's bin/, or use --control-plane kvstore",
        )
    return wanted.operator


def _key(wanted: Wanted, server: Path, cilium: Path) -> str:
    return prepared.key(
        {
            "etcd": etcd.version(wanted.etcd),
            "kube-apiserver": prepared.fingerprint(server),
            "operator": prepared.fingerprint(cilium),
            "versions": sorted(wanted.versions),
            "features": sorted(wanted.features),
            "services": [apiserver.SERVICE_CIDRS[family] for family in wanted.families],
        }
    )


__all__ = ["PORTS", "Kubernetes", "Wanted", "apiserver_of", "attach", "start"]
