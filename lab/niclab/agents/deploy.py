"""Real Cilium on a lab's nodes: control plane, one agent per node, pods by the CNI; until traffic can flow."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import tenacity

from niclab import steps
from niclab.agents import (
    api,
    bgp,
    cgroups,
    cni,
    configuration,
    controlplane,
    egress,
    ipam,
    kube,
    reported,
    seed,
    services,
)
from niclab.agents.agent import Agent, prepare
from niclab.agents.bundle import CiliumBundle, KubernetesBundle
from niclab.agents.controlplane import ControlPlane, Kind
from niclab.agents.settle import Settling
from niclab.cilium.bgp import SWITCH
from niclab.cilium.decisions import Decisions
from niclab.cilium.reported import NodeReport
from niclab.errors import LabError
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.kernel.plan import BASE_SYSCTLS
from niclab.net.operation import AddNamespace
from niclab.net.route import Address, Family
from niclab.settings import ipmasq
from niclab.topology import Topology

TRAFFIC_DEADLINE = 60.0
"""Seconds for every agent to know every pod."""

S = TypeVar("S")
T = TypeVar("T")

_IPCACHE = "cilium_ipcache_v2"
"""pkg/maps/ipcache/ipcache.go Name, 1.17 and later."""


@dataclass
class CiliumDatapath:
    """The agents and the control plane of one lab."""

    topology: Topology
    substrate: Substrate
    ledger: Ledger
    bundle: CiliumBundle
    control_plane: ControlPlane
    agents: dict[str, Agent]
    families: tuple[Family, ...] = (4,)
    """Those the cluster's services have."""
    pod_addresses: dict[str, tuple[Address, ...]] = field(default_factory=dict)

    @property
    def description(self) -> str:
        return f"Cilium {self.bundle.version} ({self.control_plane.kind})"

    @property
    def running(self) -> tuple[Agent, ...]:
        return tuple(agent for agent in self.agents.values() if agent.exited is None and agent.daemon is not None)

    def start(self, decisions: Decisions) -> None:
        """(Re)start every agent with these settings, plug the pods that are not, and wait until traffic can flow."""
        for name, agent in self.agents.items():
            agent.start(self._values(decisions, name))
        _each(self.agents.values(), lambda agent: agent.wait())
        steps.done("agents")
        for agent in self.agents.values():
            if agent.exited is not None:
                agent.stop()
        for agent in self.running:
            node = decisions.nodes[agent.node]
            # Links are numbered as they come, and programs are compiled with the tunnel's number: pods come after it.
            if node.tunnels:
                agent.wait_for_link(f"cilium_{node.settings.tunnel_protocol}")
        pods = [(pod, node) for pod, (node, _) in self.topology.pods.items() if pod not in self.pod_addresses]
        self._plug([(pod, self.agents[node]) for pod, node in pods if self.agents[node] in self.running])
        steps.done("pods")
        wanted = list(services.services(self.topology, self.pod_addresses, self.families))
        for service in wanted:
            self.control_plane.add_service(service)
        if self._applies_egress_policies(decisions):
            self.control_plane.apply(egress.policies(self.topology))
        self._wait_for_traffic(wanted, decisions)
        steps.done("traffic")

    def _values(self, decisions: Decisions, node: str) -> dict[str, str]:
        """What one node's agent is told; the files that it names are written."""
        view = decisions.nodes[node].settings
        values = configuration.of_agent(
            decisions,
            node,
            plane=self.control_plane.kind,
            plane_settings=self.control_plane.agent_settings(node),
            library=configuration.IMAGE_LIBRARY if self.bundle.kind == "image" else configuration.LIBRARY,
        )
        if view.ip_masq_agent:
            # Its own directory: the agent watches it, and refuses to run where there is none.
            values["ip-masq-agent-config-path"] = str(self._ip_masq_file(node, view.ip_masq_agent_config))
        return values

    def _ip_masq_file(self, node: str, reported: str) -> Path:
        """Where the node's ip-masq-agent finds what it is told; nothing is there when it is told nothing."""
        path = self.agents[node].directory / "ip-masq-agent" / "config"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if text := ipmasq.read(reported).text:
            path.write_text(text)
        return path

    def _applies_egress_policies(self, decisions: Decisions) -> bool:
        """Without the feature there is no definition for them: they would be of no effect."""
        enabled = any(node.settings.egress_gateway for node in decisions.nodes.values())
        return enabled and bool(self.topology.egress_policies) and bool(self.running)

    def _plug(self, pods: Sequence[tuple[str, Agent]]) -> None:
        self.substrate.apply(AddNamespace(pod, BASE_SYSCTLS) for pod, _ in pods if pod not in self.substrate)
        environments = {
            pod: self.control_plane.add_pod(
                pod,
                agent.node,
                labels=egress.pod_labels(self.topology, pod),
                annotations=ipam.pod_annotations(self.topology, pod),
            )
            for pod, agent in pods
        }

        def plug(one: tuple[str, Agent]) -> cni.Plugged:
            pod, agent = one
            return cni.plug(agent, pod, self.substrate[pod].path, environments[pod])

        for plugged in self._plugged_in_turn(pods, plug) if self.topology.ipam == "eni" else _each(pods, plug):
            self.pod_addresses[plugged.pod] = plugged.addresses
            self.control_plane.pod_running(plugged.pod, plugged.addresses)

    def _plugged_in_turn(
        self, pods: Sequence[tuple[str, Agent]], plug: Callable[[tuple[str, Agent]], cni.Plugged]
    ) -> list[cni.Plugged]:
        """Each pod with the address that is planned for it: nothing else is free when it is its turn."""
        planned = self.topology.pod_addresses()

        def on(agent: Agent) -> list[cni.Plugged]:
            socket = agent.directory / "run" / "cilium.sock"
            held = [address for address in ipam.claimed(self.topology, agent.node) if api.claim(socket, address, "lab")]
            found = []
            for one in [one for one in pods if one[1] is agent]:
                for address in planned[one[0]]:
                    api.release(socket, address)
                found.append(plug(one))
            for address in held:
                if address not in {taken for plugged in found for taken in plugged.addresses}:
                    api.release(socket, address)
            return found

        return [plugged for found in _each({id(agent): agent for _, agent in pods}.values(), on) for plugged in found]

    def _wait_for_traffic(self, served: Sequence[kube.Service], decisions: Decisions) -> None:
        """Every agent that runs has its endpoints ready, knows the pods of every other, and serves these services.
        Raises LabError.
        """
        nodes = {agent.node for agent in self.running}
        wanted = {
            str(address)
            for pod, addresses in self.pod_addresses.items()
            if self.topology.pods[pod][0] in nodes
            for address in addresses
        }

        egress_gateway = self._applies_egress_policies(decisions)

        def lacking(agent: Agent) -> list[str]:
            found = _missing(agent, wanted)
            if egress_gateway:
                listed = agent.dbg("bpf", "egress", "list", "-o", "json") or ""
                ipv6 = decisions.nodes[agent.node].settings.enable_ipv6
                found += egress.lacking(listed, self.topology, self.pod_addresses, node=agent.node, ipv6=ipv6)
            if served:
                node_ports = decisions.nodes[agent.node].settings.kube_proxy_replacement
                rows = reported.json_rows(agent.table("frontends"))
                found += services.lacking(rows, served, node=agent.node, node_ports=node_ports)
            return found

        def late() -> list[str]:
            return [one for found in _each(self.running, lacking) for one in found]

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(bool),
            wait=tenacity.wait_fixed(0.05),
            stop=tenacity.stop_after_delay(TRAFFIC_DEADLINE),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else ["nothing was asked"],
        )
        found = retrying(late)
        if found:
            raise LabError(f"the agents are not ready for traffic after {TRAFFIC_DEADLINE:g} s", why="; ".join(found))

    @property
    def bgp(self) -> dict[str, bgp.AgentBgp]:
        """Node → its agent's BGP."""
        return {name: bgp.AgentBgp(agent) for name, agent in self.agents.items()}

    def cgroup(self, node: str) -> Path:
        """The cgroup whose sockets a node's agent sees: its own programs', and its pods'."""
        return cgroups.lab_cgroup(self.ledger) / node

    def reported(self) -> dict[str, NodeReport]:
        """What every agent says now; its raw outputs are kept in the node's `artifacts`."""

        def ask(agent: Agent) -> tuple[str, NodeReport]:
            if agent.exited is not None:
                return agent.node, reported.exited(agent.exited)
            status = agent.status()
            devices, addresses = agent.table("devices"), agent.table("node-addresses")
            frontends, attached = agent.table("frontends"), reported.attached(agent.bpffs)
            raw = {"status.json": json.dumps(status, indent=1), "devices.json": devices, "frontends.json": frontends}
            for name, text in {**raw, "node-addresses.json": addresses}.items():
                (agent.directory / "artifacts" / name).write_text(text)
            return agent.node, reported.reported(status, devices, addresses, frontends, attached)

        return dict(_each(self.agents.values(), ask))

    def settling(self) -> Settling:
        """To be made before a change to the nodes, and asked to wait after it."""
        return Settling(self.running)

    def collect(self, directory: Path) -> None:
        """Keep logs and outputs of every agent, and the control plane's logs."""
        _each(self.agents.values(), lambda agent: agent.collect(directory / agent.node))
        for name, log in self.control_plane.logs.items():
            with contextlib.suppress(OSError):
                shutil.copy(log, directory / f"{name}.log")

    def deaths(self) -> dict[str, NodeReport]:
        """What is left of agents that died since they were ready: an observation, like any exit."""
        return {agent.node: reported.exited(agent.exited or "") for agent in self.agents.values() if agent.died()}

    def close(self) -> None:
        """End the agents, then the control plane. Their directories go with the ledger's."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.control_plane.close)
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


def _on_host(program: Path | None, root: Path | None) -> Path | None:
    """Where the host finds a program that a bundle names by its place inside an image."""
    if program is None or root is None:
        return program
    return root / program.relative_to("/")


def deploy(
    decisions: Decisions,
    *,
    substrate: Substrate,
    ledger: Ledger,
    bundle: CiliumBundle,
    kubernetes: KubernetesBundle | None,
    kind: Kind,
    holds: Sequence[int] = (),
) -> CiliumDatapath:
    """Start Cilium on a topology that stands. Raises LabError; what was started is ended by the ledger then.

    `holds`: descriptors that stay open as long as the nodes' sandboxes, whoever lets go of the lab.
    """
    topology = decisions.topology
    values = decisions.settings.values
    families = topology.families if values.get("enable-ipv6", "true") != "false" else (4,)
    apiserver = _on_host(kubernetes.apiserver, kubernetes.root) if kubernetes else None
    control_plane = controlplane.start(
        kind,
        substrate=substrate,
        ledger=ledger,
        nodes=tuple(topology.nodes),
        kubernetes=apiserver,
        etcd_program=_on_host(kubernetes.etcd, kubernetes.etcd_root) if kubernetes else None,
        operator=_on_host(bundle.operator, bundle.root),
        operator_settings=configuration.of_operator(values),
        versions=(bundle.version,),
        features=configuration.features_of(decisions),
        families=families,
    )
    steps.done("control plane")
    agents: dict[str, Agent] = {}
    try:
        substrate.apply(seed.links(decisions))
        parent = cgroups.lab_cgroup(ledger)
        control_plane.apply(ipam.objects(decisions, decisions.settings.values.get("ipam", "")))
        for name, node in decisions.nodes.items():
            control_plane.add_node(
                name,
                addresses=tuple(node.node_ips.values()),
                pod_cidrs=tuple(node.pod_cidrs[family] for family in node.families),
                labels=topology.nodes[name].labels,
            )
            agents[name] = prepare(
                node=name,
                netns=substrate[name].path,
                bundle=bundle,
                ledger=ledger,
                cgroup=parent / name,
                binds=control_plane.binds,
                extra_environment=control_plane.agent_environment(name),
                holds=holds,
            )
            seed.sow(agents[name].state, decisions, name, substrate[name].indices)
        for agent in agents.values():
            agent.wait_for_sandbox()
        if topology.bgp is not None and SWITCH in configuration.features_of(decisions):
            control_plane.apply(bgp.objects(topology, families))
        steps.done("sandboxes")
        datapath = CiliumDatapath(topology, substrate, ledger, bundle, control_plane, agents, families)
        datapath.start(decisions)
    except BaseException:
        for agent in agents.values():
            agent.close()
        control_plane.close()
        raise
    return datapath
