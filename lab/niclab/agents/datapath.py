"""Real Cilium on a lab's nodes: control plane, one agent per node, pods by the CNI; until traffic can flow."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import operator
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from niclab.agents import configuration, controlplane, kube, reported, seed
from niclab.agents.agent import Agent, cgroup_of
from niclab.agents.bundle import Bundle, held
from niclab.agents.controlplane import ControlPlane, Kind, Kubernetes
from niclab.agents.settle import Settling
from niclab.cilium import l2
from niclab.cilium.bgp import SWITCH
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.errors import LabError
from niclab.host import readiness
from niclab.host.datapath import AgentBgp
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.host.waiting import patient, wait_until
from niclab.kernel.plan import BASE_SYSCTLS
from niclab.net.operation import AddNamespace
from niclab.net.route import Address, Family, ip_address
from niclab.settings import ipmasq
from niclab.topology.model import Topology

_STEPS = logging.getLogger("niclab.steps")
"""What takes how long, for `scripts/bench` and `--log-level=DEBUG`."""
TRAFFIC_DEADLINE = 60.0
"""Seconds for every agent to know every pod."""

S = TypeVar("S")
T = TypeVar("T")

_IPCACHE = "cilium_ipcache_v2"
"""pkg/maps/ipcache/ipcache.go Name, 1.17 and later."""


class Cilium:
    """The agents and the control plane of one lab. `deploy` or `attach` comes first."""

    LABS_AT_ONCE: ClassVar[int] = 1
    """They take a few hundred megabytes a node, and get other devices in place."""
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"devices", "direct-routing-device", "force-device-detection"})
    KEEPS_LOGS: ClassVar[bool] = True

    def __init__(
        self, substrate: Substrate, ledger: Ledger, bundle: Bundle, kubernetes: Bundle | None, kind: Kind
    ) -> None:
        self._substrate = substrate
        self._ledger = ledger
        self._bundle = bundle
        self._kubernetes = kubernetes
        self._kind: Kind = kind
        self._undo = contextlib.ExitStack()
        self.topology: Topology
        self.control_plane: ControlPlane
        self.agents: dict[str, Agent] = {}
        self.families: tuple[Family, ...] = (4,)
        """Those the cluster's services have."""
        self.addresses: dict[str, tuple[Address, ...]] = {}

    def deploy(self, decisions: Decisions) -> Decisions:
        # Probes are made by scapy, which takes its time to load: while agents start there is some to spare.
        threading.Thread(target=importlib.import_module, args=("scapy.layers.inet6",), daemon=True).start()
        readiness.wait(self._substrate)
        with contextlib.ExitStack() as holding:
            in_use = [holding.enter_context(held(used)) for used in (self._bundle, self._kubernetes) if used]
            self._prepare(decisions, holds=[handle for handles in in_use for handle in handles])
        return self.change(decisions)

    def _prepare(self, decisions: Decisions, *, holds: Sequence[int]) -> None:
        """A control plane, and on each node what its agent starts in. `holds`: descriptors that stay open as long as
        the nodes' processes, whoever lets go of the lab."""
        topology, ledger, substrate = decisions.topology, self._ledger, self._substrate
        values = decisions.settings.values
        self.topology = topology
        self.families = topology.families if values.get("enable-ipv6", "true") != "false" else (4,)
        bundle, kubernetes = self._bundle, self._kubernetes
        self.control_plane = plane = controlplane.start(
            self._kind,
            substrate=substrate,
            ledger=ledger,
            nodes=tuple(topology.nodes),
            kubernetes=kubernetes.outside(kubernetes.required("kube-apiserver")) if kubernetes else None,
            etcd_program=kubernetes.outside(kubernetes.companion) if kubernetes else None,
            operator=bundle.outside(bundle.companion),
            operator_settings=configuration.of_operator(values),
            versions=(bundle.version,),
            features=configuration.features_of(decisions),
            families=self.families,
        )
        # The last of these is done first: agents end before what they talk to.
        self._undo.callback(plane.close)
        self._undo.callback(self._end_agents)
        _STEPS.debug("control plane")
        substrate.apply(seed.links(decisions))
        plane.apply(kube.allocations(decisions, values.get("ipam", "")))
        for name, node in decisions.nodes.items():
            addresses = tuple(node.node_ips.values())
            pod_cidrs = tuple(node.pod_cidrs[family] for family in node.families)
            labels = topology.nodes[name].labels
            plane.apply([kube.node(name, addresses=addresses, pod_cidrs=pod_cidrs, labels=labels)])
            self.agents[name] = agent = Agent(name, bundle, ledger, plane.agent_environment(name))
            agent.prepare(substrate[name].path, cgroup_of(ledger, name), binds=plane.binds, holds=holds)
            seed.sow(agent.rundir / "state", decisions, name, substrate[name].indices)
        for agent in self.agents.values():
            agent.wait_for_sandbox()
        if topology.bgp is not None and SWITCH in configuration.features_of(decisions):
            plane.apply(kube.bgp_objects(topology, self.families))
        _STEPS.debug("sandboxes")

    def attach(self, decisions: Decisions, kept: Mapping[str, Any]) -> Decisions:
        self.topology = decisions.topology
        self.control_plane = controlplane.attach(self._kind, substrate=self._substrate, ledger=self._ledger)
        self.families = tuple(kept["families"])
        self.addresses = {pod: tuple(map(ip_address, addresses)) for pod, addresses in kept["pods"].items()}
        for name in self.topology.nodes:
            environment = self.control_plane.agent_environment(name)
            agent = Agent(name, self._bundle, self._ledger, environment, exited=kept["exited"].get(name))
            if not agent.adopt():
                raise LabError(
                    f"lab {self._ledger.id} cannot be taken over",
                    why=f"the sandbox of {name} has ended: somebody killed its process, or the machine was restarted",
                    fix=f"niclab down {self._ledger.id}",
                )
            self.agents[name] = agent
        self._undo.callback(self.control_plane.close)
        self._undo.callback(self._end_agents)
        return replace(decisions, plugged=dict(self.addresses))

    def kept(self) -> Mapping[str, Any]:
        return {
            "families": list(self.families),
            "pods": {pod: list(map(str, addresses)) for pod, addresses in self.addresses.items()},
            "exited": {name: agent.exited for name, agent in self.agents.items() if agent.exited is not None},
        }

    @property
    def running(self) -> Sequence[str]:
        return [agent.node for agent in self._running]

    @property
    def _running(self) -> tuple[Agent, ...]:
        return tuple(agent for agent in self.agents.values() if agent.exited is None and agent.daemon is not None)

    def change(self, decisions: Decisions) -> Decisions:
        """Start every agent, or start it again, with these settings; plug the pods that are not; wait for traffic."""
        for name, agent in self.agents.items():
            agent.start(self._values(decisions, name))
        _each(self.agents.values(), lambda agent: agent.wait())
        _STEPS.debug("agents")
        for agent in self.agents.values():
            if agent.exited is not None:
                agent.stop()
        for agent in self._running:
            node = decisions.nodes[agent.node]
            # Links are numbered as they come, and programs are compiled with the tunnel's number: pods come after it.
            if node.tunnels:
                agent.wait_for_link(node.tunnel_device)
        nodes = {agent.node for agent in self._running}
        pods = [pod for pod, (node, _) in self.topology.pods.items() if node in nodes and pod not in self._substrate]
        self._substrate.apply(AddNamespace(pod, BASE_SYSCTLS) for pod in pods)
        _each(self._running, self._plug)
        _STEPS.debug("pods")
        wanted = kube.deployed(self.topology, self.addresses, self.families)
        self.control_plane.apply(itertools.chain.from_iterable(service.objects() for service in wanted))
        if self._applies_egress_policies(decisions):
            self.control_plane.apply(kube.policies(self.topology))
        if any(decisions.nodes[agent.node].settings.l2_announcements for agent in self._running):
            self.control_plane.apply(kube.announcement_policies(self.topology))
        self._wait_for_traffic(wanted, decisions)
        _STEPS.debug("traffic")
        return replace(decisions, plugged=dict(self.addresses))

    def _values(self, decisions: Decisions, node: str) -> dict[str, str]:
        """One node's agent's settings; the files that they name are written."""
        view = decisions.nodes[node].settings
        values = configuration.of_agent(
            decisions,
            node,
            plane=self.control_plane.agent_settings,
            library=configuration.IMAGE_LIBRARY if self._bundle.kind == "image" else configuration.LIBRARY,
        )
        if view.ip_masq_agent:
            # Its own directory: the agent watches it, and refuses to run where there is none; a file may be missing.
            path = self.agents[node].directory / "ip-masq-agent" / "config"
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            if text := ipmasq.read(view.ip_masq_agent_config).text:
                path.write_text(text)
            values["ip-masq-agent-config-path"] = str(path)
        return values

    def _applies_egress_policies(self, decisions: Decisions) -> bool:
        """Without the feature there is no definition for them: they would be of no effect."""
        enabled = any(node.settings.egress_gateway for node in decisions.nodes.values())
        return enabled and bool(self.topology.egress_policies) and bool(self._running)

    def _plug(self, agent: Agent) -> None:
        """Plug the pods of a node that are not, one after the other.

        An agent with ENIs takes any address of any of them: so each pod is given the address that is planned for it by
        claiming all others, and nothing else is free when it is its turn.
        """
        topology, planned = self.topology, self.topology.pod_addresses()
        pods = [pod for pod, (node, _) in topology.pods.items() if node == agent.node and pod not in self.addresses]
        claimed = kube.claimed(topology, agent.node) if pods and topology.ipam == "eni" else ()
        held = {address for address in claimed if agent.claim(address)}
        for pod in pods:
            labels, annotations = kube.pod_labels(topology, pod), kube.pod_annotations(topology, pod)
            known = self.control_plane.add_pod(kube.pod(pod, agent.node, labels=labels, annotations=annotations))
            for address in planned[pod] if claimed else ():
                agent.release(address)
            self.addresses[pod] = agent.plug(pod, self._substrate[pod].path, known)
            held.difference_update(planned[pod], self.addresses[pod])
            self.control_plane.pod_running(pod, self.addresses[pod])
        for address in held:
            agent.release(address)

    def _wait_for_traffic(self, served: Sequence[kube.Deployed], decisions: Decisions) -> None:
        """Every agent that runs has its endpoints ready, knows the pods of every other, and serves these kube.
        Raises LabError.
        """
        nodes = {agent.node for agent in self._running}
        wanted = {
            str(address)
            for pod, addresses in self.addresses.items()
            if self.topology.pods[pod][0] in nodes
            for address in addresses
        }

        egress_gateway = self._applies_egress_policies(decisions)
        # Whoever takes the lease answers; where a candidate has no NIC for it, perhaps nobody ever does.
        announced = l2.announced(decisions).items()
        answered = {str(address) for address, (_, who) in announced if all(nics for _, nics in who)}

        def lacking(agent: Agent) -> list[str]:
            missing = _missing(agent, wanted)
            if egress_gateway:
                listed = agent.listed(agent.dbg, "bpf", "egress", "list", "-o", "json")
                ipv6 = decisions.nodes[agent.node].settings.enable_ipv6
                missing += kube.lacking_policies(listed, self.topology, self.addresses, node=agent.node, ipv6=ipv6)
            if served:
                node_ports = decisions.nodes[agent.node].settings.kube_proxy_replacement
                rows = reported.json_rows(agent.table("frontends"))
                missing += kube.lacking_services(rows, served, node=agent.node, node_ports=node_ports)
            return missing

        def announcing(agent: Agent) -> set[str]:
            return {str(row.get("IP")) for row in reported.json_rows(agent.table("l2-announce"))}

        def late() -> list[str]:
            silent = answered - set().union(*_each(self._running, announcing)) if answered else set()
            unanswered = [f"no node announces {address}" for address in sorted(silent)]
            return [*itertools.chain(*_each(self._running, lacking)), *unanswered]

        missing = wait_until(late, TRAFFIC_DEADLINE, done=operator.not_, every=0.05)
        if missing:
            waited = patient(TRAFFIC_DEADLINE)
            raise LabError(f"the agents are not ready for traffic after {waited:g} s", why="; ".join(missing))

    @property
    def bgp(self) -> Mapping[str, AgentBgp]:
        return self.agents

    def cgroup(self, node: str) -> Path | None:
        return cgroup_of(self._ledger, node)

    def reported(self) -> dict[str, NodeReport]:
        """What every agent reports now; its raw outputs are kept in the node's `artifacts`.

        Raises NoAnswer for a silent agent: it has not selected nothing.
        """

        return dict(zip(self.agents, _each(self.agents.values(), Agent.reported), strict=True))

    def follow(self, before: Decisions, after: Decisions, change: Callable[[], None]) -> None:
        settling = Settling(self._running)
        change()
        readiness.wait(self._substrate)
        readiness.forget_neighbours(self._substrate, after.topology.hosts)
        settling.wait(before, after)

    def validate(self, before: Decisions, after: Decisions) -> None:  # noqa: ARG002
        Settling(self._running).wait_for_routes({name: after.direct_routes(name)[0] for name in after.running})

    def without_bgp(self, decisions: Decisions) -> Sequence[str]:  # noqa: ARG002
        return []

    def command(self, host: str, arguments: Sequence[str]) -> Sequence[str] | None:
        """On a node `cilium-dbg` is the bundle's."""
        if host not in self.agents:
            return None
        program = self.agents[host].dbg if arguments[0] == "cilium-dbg" else arguments[0]
        return self.agents[host].command([program, *arguments[1:]])

    def kinds(self) -> frozenset[str]:
        if not isinstance(self.control_plane, Kubernetes):
            raise LabError("this lab has no API server", fix="use --datapath cilium --control-plane kubernetes")
        return self.control_plane.kinds()

    def collect(self, directory: Path) -> None:
        _each(self.agents.values(), lambda agent: agent.collect(directory / agent.node))
        for log in sorted(controlplane.directory_of(self._ledger).glob("*.log")):
            with contextlib.suppress(OSError):
                shutil.copy(log, directory)

    def deaths(self) -> dict[str, NodeReport]:
        """What is left of agents that died since they were ready: an observation, like any exit."""
        return {agent.node: reported.exited(agent.exited or "") for agent in self.agents.values() if agent.died()}

    def close(self) -> None:
        """Agents' directories go with the ledger's."""
        self._undo.close()

    def _end_agents(self) -> None:
        with contextlib.ExitStack() as undo:
            for agent in self.agents.values():
                if agent.daemon is not None and agent.daemon.exit_status is None:
                    agent.daemon.process.terminate()
                undo.callback(agent.close)


def _each(items: Iterable[S], work: Callable[[S], T]) -> list[T]:
    """The work done on all items at once; the first error is raised when all have ended."""
    listed = list(items)
    if not listed:
        return []
    with ThreadPoolExecutor(max_workers=min(8, len(listed))) as pool:
        return list(pool.map(work, listed))


def _missing(agent: Agent, wanted: set[str]) -> list[str]:
    """What an agent still lacks before traffic can flow: endpoints not ready, pods not in its ipcache."""
    endpoints = agent.get("endpoint")
    if endpoints is None:
        return [f"{agent.node} does not list its endpoints"]
    states = [endpoint.get("status", {}).get("state") for endpoint in endpoints]
    if not states or any(state != "ready" for state in states):
        return [f"{agent.node}: endpoints are {', '.join(map(str, states)) or 'not there'}"]
    cache = agent.get(f"map/{_IPCACHE}")
    if cache is None:
        return [f"{agent.node} does not tell its ipcache"]
    # Only what the eBPF map itself has counts ("sync"): what is still to be written would drop the first packets.
    known = {entry["key"].partition("/")[0] for entry in cache.get("cache", ()) if "key" in entry}
    unknown = sorted(wanted - known)
    return [f"{agent.node} does not know {', '.join(unknown)}"] if unknown else []
