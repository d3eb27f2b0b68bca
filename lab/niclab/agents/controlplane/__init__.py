"""Control planes for real agents: Kubernetes (etcd and kube-apiserver, no kubelet) and kvstore (etcd alone).

Each lab has its own, in the namespace `control`; the nodes reach it through a relay on their loopback. Its processes
belong to the lab's ledger.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from niclab.agents import kube
from niclab.agents.bundle.store import home as default_home
from niclab.agents.controlplane import prepared, programs
from niclab.agents.controlplane.programs import (
    CONTROL,
    ETCD_PORT,
    LOOPBACK,
    Programs,
    directory_of,
    kubeconfig_of,
)
from niclab.agents.kube import Object
from niclab.agents.kubeapi import Api
from niclab.errors import LabError
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.net.operation import AddNamespace
from niclab.net.route import Address, Family
from niclab.topology.model import SERVICE_CIDRS

Kind = Literal["kubernetes", "kvstore"]
_LISTS = {"Service": "services", "EndpointSlice": "endpoints"}
"""Kinds of objects that agents without Kubernetes read, and where in the file."""
_ANNOUNCED = "Node"
"""Agents announce their nodes themselves."""


class Kubernetes:
    """A ready API server. The lab makes its objects, and plays kubelet's part in their status."""

    def __init__(self, ledger: Ledger, api: Api, undo: contextlib.ExitStack) -> None:
        self._ledger = ledger
        self._undo = undo
        self._kubeconfig = kubeconfig_of(directory_of(ledger))
        self.api = api

    @property
    def binds(self) -> tuple[str, ...]:
        """Host paths that must be visible, under the same name, where an agent runs."""
        return (str(self._kubeconfig.parent),)

    @property
    def agent_settings(self) -> Mapping[str, str]:
        """The keys of `--config-dir` with which agents reach the control plane."""
        return {
            "k8s-kubeconfig-path": str(self._kubeconfig),
            "identity-allocation-mode": "crd",
            "ipam": "kubernetes",
        }

    def agent_environment(self, node: str) -> Mapping[str, str]:
        """The environment variables a node's agent needs."""
        return {"K8S_NODE_NAME": node, "CILIUM_K8S_NAMESPACE": "kube-system"}

    def apply(self, objects: Iterable[Object]) -> None:
        """Make objects be as given, new or not. Raises LabError, without Kubernetes for what agents cannot read."""
        for wanted in objects:
            self.api.apply(wanted)

    def add_pod(self, pod: Object) -> Mapping[str, str]:
        """Make a pod known; the environment variables to add when its CNI plugin is called."""
        made = self.api.apply(pod)
        return {"CNI_ARGS": kube.cni_arguments(made["metadata"]["name"], made["metadata"]["uid"])}

    def pod_running(self, name: str, addresses: Sequence[Address]) -> None:
        """Tell what addresses the pod got: it runs."""
        # Agents do not take up the address of a pod without those of its node.
        found = self.api.get("v1", "Pod", name, namespace=kube.NAMESPACE)
        node = self.api.get("v1", "Node", found["spec"]["nodeName"]) if found else None
        hosts = kube.node_ips(node) if node else []
        self.api.apply(kube.pod_running(name, addresses, host_addresses=hosts))

    def kinds(self, group: str = "cilium.io") -> frozenset[str]:
        """Every kind of object that the API serves in a group, of any of its versions. Raises LabError."""
        versions = json.loads(self.api.text(f"/apis/{group}"))["versions"]
        served = [json.loads(self.api.text(f"/apis/{one['groupVersion']}"))["resources"] for one in versions]
        return frozenset(str(resource["kind"]) for resources in served for resource in resources)

    def close(self) -> None:
        """Let go of it; its programs end as well, unless the lab is kept."""
        self.api.close()
        if not self._ledger.kept:
            self._undo.close()


class Kvstore:
    """etcd alone. Pods have no labels then: policies are never enforced (`enable-policy`), or nothing gets through."""

    def __init__(self, ledger: Ledger, undo: contextlib.ExitStack) -> None:
        self._ledger = ledger
        self._undo = undo
        # A directory of its own: an agent watches it, and sees nothing else of the control plane's.
        self._shared = directory_of(ledger) / "shared"
        self._services = self._shared / "services.json"
        self._shared.mkdir(parents=True, exist_ok=True)
        if not self._services.exists():
            self._write({name: [] for name in _LISTS.values()})

    def _write(self, state: Mapping[str, list[Object]]) -> None:
        """Whole or not at all: agents read it whenever it changes."""
        draft = self._services.with_suffix(".new")
        draft.write_text(json.dumps(state, indent=1))
        draft.rename(self._services)

    @property
    def binds(self) -> tuple[str, ...]:
        return (str(self._shared),)

    @property
    def agent_settings(self) -> Mapping[str, str]:
        return {
            "enable-k8s": "false",
            "kvstore": "etcd",
            "kvstore-opt": json.dumps({"etcd.address": f"http://{LOOPBACK}:{ETCD_PORT}"}),
            "identity-allocation-mode": "kvstore",
            "enable-policy": "never",
            # The agents' own way to services without Kubernetes (pkg/loadbalancer/reflectors/file.go, 1.18 and later).
            "lb-state-file": str(self._services),
            "lb-state-file-interval": "50ms",
        }

    def agent_environment(self, node: str) -> Mapping[str, str]:
        return {"K8S_NODE_NAME": node}

    def apply(self, objects: Iterable[Object]) -> None:
        wanted = [one for one in objects if one["kind"] != _ANNOUNCED]
        if unread := sorted({one["kind"] for one in wanted} - _LISTS.keys()):
            raise LabError(
                f"there is nobody to read {', '.join(unread)} objects",
                why="agents without Kubernetes meet in etcd",
                fix="use --control-plane kubernetes",
            )
        if wanted:
            state = json.loads(self._services.read_text())
            for one in wanted:
                listed = state[_LISTS[one["kind"]]]
                listed[:] = [other for other in listed if other["metadata"] != one["metadata"]] + [one]
            self._write(state)

    def add_pod(self, pod: Object) -> Mapping[str, str]:  # noqa: ARG002 (nobody would read it)
        return {}

    def pod_running(self, name: str, addresses: Sequence[Address]) -> None:
        """Nothing to do: agents announce their pods themselves."""

    def close(self) -> None:
        if not self._ledger.kept:
            self._undo.close()


ControlPlane: TypeAlias = Kubernetes | Kvstore
"""Both offer the same to agents and to the lab; what it means is written at Kubernetes."""


def start(
    kind: Kind,
    *,
    substrate: Substrate,
    ledger: Ledger,
    nodes: Sequence[str],
    kubernetes: Path | None = None,
    operator: Path | None = None,
    operator_settings: Mapping[str, str] | None = None,
    versions: Collection[str] = (),
    features: Collection[str] = (),
    families: Sequence[Family] = (4,),
    etcd_program: Path | None = None,
    home: Path | None = None,
    patience: float = 90.0,
) -> ControlPlane:
    """Start a control plane for these nodes, whose namespaces exist; it is ready on return. Raises LabError.

    `kubernetes` is kube-apiserver, `operator` Cilium's operator: paths of the host, also when they lead into an image's
    root file system, for these programs need nothing from it. `features` are the settings, as the operator calls them
    (`enable-bgp-control-plane` …), for which it makes more definitions; `versions` tells builds apart that are not told
    apart by the programs themselves. `home` holds prepared data. A program that is not ready after `patience` seconds
    is late; on an error what was started here has ended.
    """
    etcd, settings = programs.find_etcd(etcd_program), operator_settings or {}
    # The operator creates the definitions that Cilium's agents wait for.
    needed = (
        ("kube-apiserver", kubernetes, "niclab kubernetes pull, load or add; or --control-plane kvstore"),
        ("cilium-operator-generic", operator, "put it in the bundle's bin/, or use --control-plane kvstore"),
    )
    there = [_there(*program) for program in needed if kind == "kubernetes"]
    directory_of(ledger).mkdir(mode=0o700, parents=True, exist_ok=True)
    substrate.apply([AddNamespace(CONTROL)])
    with contextlib.ExitStack() as undo:
        run = Programs(ledger, substrate, patience, undo)
        if kind == "kvstore":
            run.relay(nodes, ETCD_PORT)
            run.etcd(etcd)
            return Kvstore(ledger, undo.pop_all())
        server, cilium = there
        run.relay(nodes, programs.APISERVER_PORT)
        key = prepared.key(
            {
                "etcd": prepared.fingerprint(etcd),
                "kube-apiserver": prepared.fingerprint(server),
                "operator": prepared.fingerprint(cilium),
                "versions": sorted(versions),
                "features": sorted(features),
                "services": [str(SERVICE_CIDRS[family]) for family in families],
            }
        )
        store, data = prepared.Store(home or default_home()), run.directory / "etcd"
        restored = store.restore(key, data)
        try:
            run.etcd(etcd)
        except LabError as error:
            if not restored:
                raise
            store.discard(key)
            raise LabError(error.what, why=error.why, fix="its prepared data is discarded: try again") from None
        # Not before: an API server that does not find etcd at once waits for a second.
        run.apiserver(server, families)
        api = programs.connect(substrate, run.directory)
        undo.callback(api.close)
        if not restored:
            run.define(api, cilium, features, settings)
            run.running["etcd"].stop()  # what etcd has written is whole then
            store.save(key, data)
            run.etcd(etcd)  # the API server finds it again by itself
            run.wait_for_apiserver()
        if programs.needs_operator(features, settings):
            run.operator(cilium, features, settings, defines=False)
        return Kubernetes(ledger, api, undo.pop_all())


def attach(kind: Kind, *, substrate: Substrate, ledger: Ledger) -> ControlPlane:
    """The control plane of a kept lab. Raises LabError when it is gone."""
    undo = contextlib.ExitStack()
    if kind == "kvstore":
        return Kvstore(ledger, undo)
    return Kubernetes(ledger, programs.connect(substrate, directory_of(ledger)), undo)


def _there(name: str, program: Path | None, fix: str) -> Path:
    if program is None or not program.is_file():
        where = f" at {program}" if program else ""
        raise LabError(f"there is no {name}{where}", why="the Kubernetes control plane is made of it", fix=fix)
    return program


__all__ = ["ControlPlane", "Kind", "Kubernetes", "Kvstore", "attach", "directory_of", "start"]
