"""Cilium's operator: it creates the definitions that agents wait for, and does what some features need at run time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from niclab.agents.controlplane import apiserver, program
from niclab.agents.kube import Object
from niclab.agents.kubeapi import Api
from niclab.host import daemons, syscalls
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace

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
    return daemons.start(
        ledger,
        "cilium-operator",
        _own_run(
            directory,
            [
                str(operator),
                f"--config-dir={configuration}",
                f"--k8s-kubeconfig-path={apiserver.kubeconfig_of(directory)}",
            ],
        ),
        log=log,
        extra_environment={"CILIUM_K8S_NAMESPACE": _NAMESPACE, "K8S_NODE_NAME": "control"},
        netns=control.fd,
        outright=True,
    )


def _own_run(directory: Path, program: Sequence[str]) -> list[str]:
    """A program with a /run of its own, of which only `directory` is as it was: the operator keeps a socket and a
    directory in /run/cilium of whatever machine it runs on, and no setting of every version moves them."""
    kept = str(directory)
    steps: list[syscalls.Step] = [("own_mounts",), ("open", kept), ("fresh", "tmpfs", "/run"), ("show", kept, kept)]
    return syscalls.command(steps, program, purpose=f"run {program[0]}")


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
