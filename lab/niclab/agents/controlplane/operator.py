"""Cilium's operator: it creates the definitions that agents wait for, and does what some features need at run time."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from niclab.agents.controlplane import apiserver, private, program
from niclab.agents.kube import Object
from niclab.agents.kubeapi import Api
from niclab.host import belongings
from niclab.host.belongings import Daemon
from niclab.host.netns import Namespace
from niclab.host.ownership import Ledger

_DEFINITIONS = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
# The operator makes them one after the other, this one at the end (pkg/k8s/synced/crd.go AllCiliumCRDResourceNames).
_LAST = "ciliumnodeconfigs.cilium.io"
_NAMESPACE = "kube-system"
_LEASE = "cilium-operator-resource-lock"
NEEDED_BY = frozenset(
    {
        "enable-bgp-control-plane",
        "enable-cilium-endpoint-slice",
        "enable-gateway-api",
        "enable-ingress-controller",
        "enable-node-ipam",
    }
)
"""Features for which the operator makes objects at run time, e.g. CiliumBGPNodeConfig; others need definitions only."""
_IPAM_WITHOUT = frozenset({"", "kubernetes", "delegated-plugin"})


def needed(features: Collection[str], settings: Mapping[str, str]) -> bool:
    """Must the operator run beside the agents? With ipam=kubernetes nodes get their pod CIDRs from the lab."""
    return not NEEDED_BY.isdisjoint(features) or settings.get("ipam", "") not in _IPAM_WITHOUT


def start(
    ledger: Ledger,
    control: Namespace,
    directory: Path,
    *,
    operator: Path,
    features: Collection[str],
    settings: Mapping[str, str],
    defines: bool,
    log: Path,
) -> Daemon:
    """Start the operator, configured as by `cilium-config`; `defines`: to make the definitions. Raises LabError."""
    configuration = directory / "operator"
    configuration.mkdir(mode=0o700, exist_ok=True)
    values = {
        "ipam": "kubernetes",
        "enable-gops": "false",
        "enable-metrics": "false",
        "operator-prometheus-serve-addr": "127.0.0.1:9963",
        "operator-api-serve-addr": "127.0.0.1:9234",
        # Objects are what the lab makes of them: the operator takes nothing away.
        "unmanaged-pod-watcher-interval": "0",
        "nodes-gc-interval": "0",
        **dict.fromkeys(features, "true"),
        **settings,
        # It looks at each that is there already for a second, before it does anything else.
        "skip-crd-creation": str(not defines).lower(),
    }
    for name, value in values.items():
        (configuration / name).write_text(value)
    return belongings.start(
        ledger,
        "cilium-operator",
        [
            *(sys.executable, "-I", "-S", private.__file__, str(directory), "--"),
            str(operator),
            f"--config-dir={configuration}",
            f"--k8s-kubeconfig-path={apiserver.kubeconfig_of(directory)}",
        ],
        log=log,
        extra_environment={"CILIUM_K8S_NAMESPACE": _NAMESPACE, "K8S_NODE_NAME": "control"},
        netns=control.fd,
        outright=True,
    )


def wait(daemon: Daemon, api: Api, *, deadline: float) -> None:
    """Return when the operator has made all its definitions, at about one a second. Raises LabError."""
    program.until_ready(daemon, lambda: missing(api), deadline=deadline)


def end(daemon: Daemon, api: Api) -> None:
    """End an operator whose work is done, so that the next need not wait until its lease has run out."""
    program.end(daemon)
    api.delete("coordination.k8s.io/v1", "Lease", _LEASE, namespace=_NAMESPACE)


def missing(api: Api) -> str:
    """Which of the definitions are not there yet, in words; "" when all are."""
    definitions = {one["metadata"]["name"]: one for one in api.objects(*_DEFINITIONS)}
    waiting = [name for name, one in definitions.items() if not _established(one)]
    if _LAST not in definitions:
        return f"{len(definitions)} definitions so far, {_LAST} not yet"
    return f"{', '.join(waiting)} not established" if waiting else ""


def _established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
