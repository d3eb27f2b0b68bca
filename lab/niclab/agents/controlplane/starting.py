"""Starting a control plane, and finding that of a kept lab again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from niclab.agents.controlplane import etcd, program, relay
from niclab.agents.controlplane import kubernetes as with_kubernetes
from niclab.agents.controlplane.kvstore import PORTS as KVSTORE_PORTS
from niclab.agents.controlplane.kvstore import Kvstore
from niclab.agents.controlplane.plane import ControlPlane, Kind
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.net.operation import AddNamespace
from niclab.net.route import Family


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

    `kubernetes` is kube-apiserver or a directory with `bin/kube-apiserver`, `operator` Cilium's operator: paths of the
    host, also when they lead into an image's root file system, for these programs need nothing from it. `features` are
    the settings, as the operator calls them (`enable-bgp-control-plane` …), for which it makes more definitions;
    `versions` tells builds apart that are not told apart by the programs themselves. `home` holds prepared data. A
    program that is not ready after `patience` seconds is late.
    """
    directory = directory_of(ledger)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = etcd.find(etcd_program)
    if relay.CONTROL not in substrate:
        substrate.apply([AddNamespace(relay.CONTROL)])
    control = substrate[relay.CONTROL]
    with contextlib.ExitStack() as undo:
        ports = KVSTORE_PORTS if kind == "kvstore" else with_kubernetes.PORTS
        forwarding = relay.start(ledger, substrate, nodes=nodes, ports=ports, log=directory / "relay.log")
        undo.callback(program.end, forwarding)
        if kind == "kvstore":
            store = etcd.start(ledger, control, etcd=found, data=directory / "etcd", log=directory / "etcd.log")
            undo.callback(program.end, store)
            etcd.wait(store, control, deadline=patience)
            undo.pop_all()
            return Kvstore(ledger, directory, (forwarding, store))
        plane = with_kubernetes.start(
            ledger,
            control,
            directory,
            wanted=with_kubernetes.Wanted(
                etcd=found,
                kubernetes=kubernetes,
                operator=operator,
                operator_settings=operator_settings or {},
                versions=tuple(versions),
                features=frozenset(features),
                families=tuple(families),
                home=home,
                patience=patience,
            ),
            relay=forwarding,
        )
        undo.pop_all()
        return plane


def attach(kind: Kind, *, substrate: Substrate, ledger: Ledger) -> ControlPlane:
    """The control plane of a kept lab. Raises LabError when it is gone."""
    directory = directory_of(ledger)
    if kind == "kvstore":
        return Kvstore(ledger, directory)
    return with_kubernetes.attach(ledger, substrate[relay.CONTROL], directory)


def directory_of(ledger: Ledger) -> Path:
    """Where a lab's control plane keeps its files."""
    return ledger.path / "control"
