"""What is asked for: topology, settings, datapath, version and control plane, resolved once and with the reasons.

`resolve` is the one place that chooses. The command line, pytest and `Lab.deploy` all get their `Request` from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from niclab.check import load
from niclab.check.sections import egress_notes
from niclab.check.topology import same_node_ips
from niclab.cilium.selection.devices import unmatched
from niclab.cilium.version import DEFAULT_VERSION, VERSIONS, Version, modelled_version
from niclab.errors import LabError, Problem, Problems, nearest
from niclab.settings import LAB_BASELINE, NodeView, Settings, check_keys, fit, formats, unmodelled
from niclab.topology.model import Topology
from niclab.topology.stacking import stands_in

if TYPE_CHECKING:
    from niclab.agents.bundle import Bundle
    from niclab.agents.controlplane import Kind

DatapathName = Literal["builtin", "cilium"]
Nics = Literal["physical", "veth", "mixed"]


@dataclass(frozen=True)
class Decided:
    """Who forwards pod packets, and why."""

    datapath: DatapathName
    why: str
    not_agents: str = ""
    """Why it is the model where real agents could be expected; else empty."""
    stands_in_for: str = ""
    """The minor version of the bundle that cannot run here."""

    @property
    def words(self) -> str:
        return f"{'real agents' if self.datapath == 'cilium' else 'the built-in model'}, {self.why}"


@dataclass(frozen=True)
class Choice:
    """Who forwards pod packets, in which version, and why. Without a `bundle` it is the built-in model."""

    version: Version
    bundle: Bundle | None = None
    """The binaries of the real agents."""
    kubernetes: Bundle | None = None
    control_plane: Kind | None = None
    """What real agents talk to."""
    reasons: tuple[str, ...] = ()

    @property
    def datapath(self) -> DatapathName:
        return "cilium" if self.bundle is not None else "builtin"

    @property
    def description(self) -> str:
        """The datapath in words; the model says that it is one."""
        if self.bundle is None:
            return f"built-in model of Cilium {self.version}"
        return f"Cilium {self.bundle.version} ({self.control_plane})"


@dataclass(frozen=True)
class Request:
    """One lab, or one prediction, with everything decided that can be decided before anything is built."""

    topology: Topology
    settings: Settings
    """As the agents get them: with the IPAM mode that the topology needs."""
    choice: Choice
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why this datapath, version, control plane and IPAM mode: a line each."""

    @property
    def version(self) -> Version:
        return self.choice.version

    @property
    def datapath(self) -> DatapathName:
        return self.choice.datapath

    @property
    def nics(self) -> Nics:
        """What the nodes' NICs are."""
        kind, *others = self.topology.nic_kinds
        return "mixed" if others else kind

    @property
    def unmodelled(self) -> tuple[str, ...]:
        """Settings that are real, and that the built-in model does not know; real agents know all of theirs."""
        return unmodelled(self.settings) if self.choice.bundle is None else ()

    @property
    def lacks_kubernetes(self) -> str:
        """What the agents read in Kubernetes objects alone, where they only have a kvstore; else empty."""
        return only_in_kubernetes(self.topology, self.settings) if self.choice.control_plane == "kvstore" else ""

    def with_settings(self, settings: Settings) -> Request:
        """The same lab with other settings. Raises InputError where they do not fit the topology."""
        return replace(self, settings=fit(settings, self.topology))

    def to_json(self) -> dict[str, Any]:
        """As a kept lab stores it."""
        bundle = self.choice.bundle
        return {
            "topology": self.topology.model_dump(mode="json"),
            "settings": formats.to_json(self.settings),
            "datapath": self.datapath,
            "cilium_version": str(self.version),
            "bundle": [bundle.name, bundle.version, str(bundle.path), bundle.kind] if bundle else None,
            "control_plane": self.choice.control_plane,
        }

    @classmethod
    def from_json(cls, stored_request: Mapping[str, Any]) -> Request:
        """A kept lab's request. Raises InputError when the model no longer knows its version."""
        bundle = None
        if stored_request["bundle"] is not None:
            from niclab.agents.bundle import CILIUM, Bundle

            name, version, path, kind = stored_request["bundle"]
            bundle = Bundle(CILIUM, name, version, Path(path), kind)
        return cls(
            topology=Topology.model_validate(stored_request["topology"]),
            settings=formats.from_json(stored_request["settings"]),
            choice=Choice(
                modelled_version(stored_request["cilium_version"]),
                bundle,
                control_plane=stored_request["control_plane"],
            ),
            reasons=("everything is as when the lab was made",),
        )


def resolve(
    topology: Topology | str | Path,
    settings: Settings | None = None,
    *,
    datapath: str | None = None,
    cilium_version: str | None = None,
    control_plane: Kind | None = None,
) -> Request:
    """Everything that is asked for, checked and decided. Raises InputError, LabError.

    `settings` without a base of their own stand alone: without any it is the lab's baseline. `datapath` is `builtin` or
    `cilium`; left out, real Cilium where it can run and there is a bundle. `cilium_version` is a version to model, or
    the name or version of a bundle. `control_plane` is `kubernetes` or `kvstore`.
    """
    whole = topology if isinstance(topology, Topology) else load(topology)
    given = settings if settings is not None else LAB_BASELINE
    _check_nodes(given, whole)
    decided = decide(datapath, cilium_version)
    choice = choose(decided, cilium_version, control_plane)
    of_versions = check_keys(given, version=str(choice.version))
    _check_chaining(given)
    chosen = fit(given, whole)
    added = [f"{key}={value}" for key, value in chosen.values.items() if given.values.get(key) != value]
    views = _views(whole, given)
    warnings = [
        *given.warnings,
        *of_versions,
        *unmatched({name: (view, [*whole.nodes[name].interfaces]) for name, view in views.items()}, choice.version),
        *_without_xdp(whole, views.values(), choice),
        *_without_effect(whole, views),
        *egress_notes(whole),
        *stands_in(whole),
        *same_node_ips(whole),
    ]
    if decided.not_agents:
        warnings.append(f"this is the {choice.description}, not real agents: {decided.not_agents}")
    if whole.local_redirect_policies and choice.bundle is not None:
        why = "the pods of this lab have no containers, whose ports agents look for"
        fix = "take the built-in model: --datapath builtin"
        raise LabError("real agents are not given local redirect policies here", why=why, fix=fix)
    return Request(
        topology=whole,
        settings=chosen,
        choice=choice,
        warnings=tuple(dict.fromkeys(warnings)),
        reasons=(*choice.reasons, *([f"settings: {', '.join(added)}, by the topology's addresses"] if added else [])),
    )


def decide(datapath: str | None, cilium_version: str | None = None) -> Decided:
    """Real agents or the model? Raises LabError."""
    if datapath == "builtin":
        return Decided("builtin", "it is asked for")
    if datapath == "cilium":
        if why := why_no_agents():
            fix = "run it as root (sudo), or use --datapath builtin"
            raise LabError("real Cilium cannot run here", why=why, fix=fix)
        return Decided("cilium", "they are asked for")
    if datapath is not None:
        raise LabError(f"there is no datapath {datapath!r}", fix="use builtin or cilium")
    from niclab.agents import bundle

    try:
        newest = bundle.find(bundle.CILIUM, cilium_version)
    except LabError as error:
        # Where nobody has any bundle, nobody expects real agents.
        expected = os.environ.get(bundle.CILIUM.variable) or bundle.every(bundle.CILIUM)
        return Decided("builtin", error.what, ": ".join(filter(None, (error.what, error.why))) if expected else "")
    if why := why_no_agents():
        why = f"the bundle {newest.name} ({newest.version}) cannot run here: {why}"
        return Decided("builtin", why, why, newest.minor)
    return Decided("cilium", "a bundle is at hand")


def choose(decided: Decided, cilium_version: str | None = None, control_plane: Kind | None = None) -> Choice:
    """The version of the model, or the bundles and the control plane of real agents. Raises InputError, LabError."""
    if decided.datapath == "builtin":
        version = modelled_version(decided.stands_in_for or cilium_version or DEFAULT_VERSION)
        which = "of that bundle" if decided.stands_in_for else "it is asked for" if cilium_version else "the default"
        return Choice(version, reasons=(f"datapath: {decided.words}", f"version: {version}, {which}"))
    from niclab.agents import bundle

    agents = bundle.find(bundle.CILIUM, cilium_version)
    kind: Kind = control_plane or ("kubernetes" if bundle.every(bundle.KUBERNETES) else "kvstore")
    at_hand = "a bundle is at hand" if kind == "kubernetes" else "there is no bundle of Kubernetes"
    which = "it is asked for" if cilium_version else "the newest bundle"
    return Choice(
        Version.parse(agents.minor),
        bundle=agents,
        kubernetes=bundle.find(bundle.KUBERNETES) if kind == "kubernetes" else None,
        control_plane=kind,
        reasons=(
            f"datapath: {decided.words}",
            f"control plane: {kind}, {'it is asked for' if control_plane else at_hand}",
            f"version: {agents.version} (bundle {agents.name}), {which}",
        ),
    )


def why_no_agents() -> str:
    """Why real agents cannot run in this process; empty when they can."""
    from niclab.host import userns  # predictions start no processes

    if userns.is_inside() or not userns.is_able():
        return "agents load eBPF programs, and the kernel lets only the machine's root do that"
    return ""


def default_versions(decided: Decided) -> tuple[str, ...]:
    """What tests run on when they name no version: every bundle's, also where the model stands in for it; without
    bundles those around the model's greatest change."""
    if decided.datapath == "cilium" or decided.not_agents:
        from niclab.agents import bundle

        with contextlib.suppress(LabError):
            every = {Version.parse(known.minor) for known in bundle.every(bundle.CILIUM)}
            usable = every if decided.datapath == "cilium" else every & {*VERSIONS}
            if usable:
                return tuple(map(str, sorted(usable)))
    return ("1.18", "1.20")


def only_in_kubernetes(topology: Topology, settings: Settings) -> str:
    """What of this agents read in Kubernetes objects alone, in words; empty when a kvstore will do."""
    from niclab.agents.kube import ALLOCATED

    if topology.bgp is not None:
        return "BGP"
    if topology.ipam in ALLOCATED:
        return f"addresses (ipam={topology.ipam})"
    views = _views(topology, settings).values()
    if topology.l2_announcement_policies and any(view.l2_announcements for view in views):
        return "L2 announcement policies"
    return "egress policies" if topology.egress_policies and any(view.egress_gateway for view in views) else ""


def _check_nodes(settings: Settings, topology: Topology) -> None:
    """Settings of single nodes must name nodes that are there. Raises InputError."""
    unknown = [node.name for node in settings.per_node if node.selector is None and node.name not in topology.nodes]
    problems = Problems()
    for name in unknown:
        problems.append(Problem("--node-set", 0, name, f"there is no node {name!r}", nearest(name, topology.nodes)))
    problems.finish()


def _without_xdp(topology: Topology, views: Iterable[NodeView], choice: Choice) -> Iterator[str]:
    """Where the lab's NICs are not what the asker's are: a macvlan stands in for a physical NIC."""
    native = any(view.get("bpf-lb-acceleration") == "native" for view in views)
    if choice.bundle is not None and native and "physical" in topology.nic_kinds:
        yield "the lab's physical NICs take no XDP program, a real one does: these agents never get ready; --nics veth"


def _check_chaining(settings: Settings) -> None:
    """Another CNI plugin that Cilium is chained to would plug the pods and route them. Raises InputError."""
    problems = Problems()
    for owner, values in settings.by_owner():
        if (mode := values.get("cni-chaining-mode", "none")) not in ("", "none", "portmap"):
            why = "the other plugin plugs the pods and routes them: niclab has only Cilium's CNI"
            fix = "leave it out to see Cilium's own routing"
            problems.append(Problem(owner, 0, f"cni-chaining-mode={mode}", why, fix))
    problems.finish()


def _without_effect(topology: Topology, views: Mapping[str, NodeView]) -> Iterator[str]:
    """What the topology has and the settings turn off."""

    def idle(kind: str, policies: Iterable[str], flag: str, where: str = "") -> str:
        return f"{kind} policies ({', '.join(policies)}) are of no effect{where}: {flag} is off"

    if topology.local_redirect_policies and not any(view.local_redirect_policy for view in views.values()):
        yield idle("local redirect", topology.local_redirect_policies, "enable-local-redirect-policy")
    off = [name for name, view in views.items() if not view.egress_gateway]
    if topology.egress_policies and off:
        where = f" on {', '.join(off)}" if len(off) < len(views) else ""
        yield idle("egress", topology.egress_policies, "enable-egress-gateway", where)
    announced = any(view.l2_announcements for view in views.values())
    if announced and topology.services and not topology.l2_announcement_policies:
        yield "enable-l2-announcements announces nothing without l2_announcement_policies in the topology"
    elif topology.l2_announcement_policies and not announced:
        yield idle("L2 announcement", topology.l2_announcement_policies, "enable-l2-announcements")


def _views(topology: Topology, settings: Settings) -> Mapping[str, NodeView]:
    """Node → what its agent is given."""
    return {name: settings.for_node(name, node.labels) for name, node in topology.nodes.items()}
