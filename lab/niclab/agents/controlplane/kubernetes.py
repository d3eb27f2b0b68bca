"""The Kubernetes control plane without kubelet: etcd, kube-apiserver, and Cilium's operator where it is needed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence

from niclab.agents import kube
from niclab.agents.controlplane.programs import directory_of, kubeconfig_of
from niclab.agents.kubeapi import Api
from niclab.host.ledgers import Ledger
from niclab.net.route import Address


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

    def apply(self, objects: Iterable[kube.Object]) -> None:
        """Make objects be as given, new or not. Raises LabError, without Kubernetes for what agents cannot read."""
        self.api.apply_all(objects)

    def add_pod(self, pod: kube.Object) -> Mapping[str, str]:
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
