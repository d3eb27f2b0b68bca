"""Control planes for real agents: Kubernetes (etcd and kube-apiserver, no kubelet) and kvstore (etcd alone).

Each lab has its own, in the namespace `control`; the nodes reach it through a relay on their loopback. Its processes
belong to the lab's ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from niclab.agents.bundle.store import home as default_home
from niclab.agents.controlplane import prepared, programs
from niclab.agents.controlplane.planes import Kubernetes, Kvstore
from niclab.agents.controlplane.programs import CONTROL, Programs, directory_of
from niclab.errors import LabError
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.net.operation import AddNamespace
from niclab.net.route import Family
from niclab.topology.model import SERVICE_CIDRS

Kind = Literal["kubernetes", "kvstore"]
ControlPlane: TypeAlias = Kubernetes | Kvstore


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
    wanted = {} if kind == "kvstore" else {"kube-apiserver": kubernetes, _OPERATOR: operator}
    there = [_there(name, program) for name, program in wanted.items()]
    directory_of(ledger).mkdir(mode=0o700, parents=True, exist_ok=True)
    substrate.apply([AddNamespace(CONTROL)])
    with contextlib.ExitStack() as undo:
        run = Programs(ledger, substrate, patience, undo)
        if kind == "kvstore":
            run.relay(nodes, programs.ETCD_PORT)
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


_OPERATOR = "cilium-operator-generic"
_LACKING = {
    "kube-apiserver": (
        "the kubernetes control plane is made of it",
        "niclab kubernetes pull, load or add; or --control-plane kvstore",
    ),
    _OPERATOR: (
        "it creates the definitions that Cilium's agents wait for",
        "put it in the bundle's bin/, or use --control-plane kvstore",
    ),
}
"""Program → why it is needed, and how to come by it."""


def _there(name: str, program: Path | None) -> Path:
    if program is None or not program.is_file():
        why, fix = _LACKING[name]
        raise LabError(f"there is no {name}{f' at {program}' if program else ''}", why=why, fix=fix)
    return program


__all__ = ["ControlPlane", "Kind", "Kubernetes", "Kvstore", "attach", "directory_of", "start"]
