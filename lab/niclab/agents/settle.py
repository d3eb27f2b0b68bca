"""When agents have dealt with a change to their nodes: seen it, chosen devices anew, and loaded their programs again.

Measured on 1.18.10 and 1.20.0-dev: the devices table follows within 0.3 s (netlink's messages are collected for 100 ms,
pkg/datapath/linux/devices_controller.go), the programs seconds later, as they are compiled. The orchestrator writes
`node_config.h` when it begins and reports OK when every endpoint has its new program (orchestrator.go reinitialize);
until then packets meet the old ones. It may also fail, as 1.18 does when its direct routing device is gone ("IPv4
direct routing device not found"): then it reports `Degraded`, tries again ever more rarely, and the old programs stay.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from niclab.agents.agent import Agent
from niclab.agents.reported import device_rows, json_rows
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import NodeDecision
from niclab.host.waiting import wait_until
from niclab.net.route import Route

DEADLINE = 60.0
"""Seconds; compiling takes one or two on an idle machine."""
VALIDATION_DEADLINE = 150.0
"""Seconds; nodes are validated about once a minute (pkg/node/manager/manager.go baseBackgroundSyncInterval)."""
QUIET = 1.0
"""Seconds without news: collecting messages (0.1) and the orchestrator's rate limit (0.5), with room to spare."""
_POLL = 0.2
_ORCHESTRATOR = ("orchestrator", "job-reinitialize")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an agent shows of its own state. Times in seconds since the epoch; 0: never."""

    devices: tuple[str, ...]
    served: tuple[str, ...]
    """The devices its status names, and the direct routing device: asked for only now and then."""
    direct_routing_device: str | None
    began: float
    loaded: float

    @property
    def is_loading(self) -> bool:
        return self.began > self.loaded


def look(agent: Agent) -> Seen:
    status = agent.status().get("kube-proxy-replacement") or {}
    header = agent.rundir / "state" / "globals" / "node_config.h"
    return Seen(
        devices=tuple(sorted(str(row["Name"]) for row in device_rows(agent.table("devices")) if row.get("Selected"))),
        served=tuple(sorted(status.get("devices") or ())),
        direct_routing_device=status.get("directRoutingDevice") or None,
        began=header.stat().st_mtime if header.exists() else 0.0,
        loaded=loaded(agent.table("health")),
    )


def loaded(health: str) -> float:
    """When the orchestrator last said that all programs are loaded, or cannot be: from the table `health`."""
    for row in json_rows(health):
        words = json.dumps(row.get("ID"))
        if all(f'"{one}"' in words for one in _ORCHESTRATOR):
            # Nanoseconds are more than Python reads.
            moment = str(row.get("Updated", "")).removesuffix("Z")[:26]
            return datetime.datetime.fromisoformat(moment + "+00:00").timestamp()
    return 0.0


def reloads(before: NodeDecision, after: NodeDecision) -> bool:
    """Will the agent load its programs again? Its configuration has the selected devices and their addresses, but for
    link-local ones: a listed device that goes down is nothing new to 1.20 [measured]."""

    def configuration(one: NodeDecision) -> object:
        return [
            (link.index, link.name, link.mtu, [address for address in link.addresses if not address.ip.is_link_local])
            for link in one.links
            if link.name in one.selected
        ]

    return configuration(before) != configuration(after)


class Settling:
    """Made before a change, asked after it."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents = tuple(agents)
        self._marks = {agent.node: loaded(agent.table("health")) for agent in self._agents}

    def wait(self, before: Decisions, after: Decisions) -> bool:
        """Return when every agent is as predicted and at rest; False when it is not by DEADLINE."""

        def settled(agent: Agent) -> bool:
            expected = after.nodes[agent.node]
            seen = look(agent)
            fresh = not reloads(before.nodes[agent.node], expected) or seen.loaded > self._marks[agent.node]
            selected = tuple(sorted(expected.selected))
            served = seen.served == selected or not seen.served
            drd = seen.direct_routing_device in (None, expected.drd.device)
            return fresh and served and drd and seen.devices == selected and not seen.is_loading

        return self._hold(settled, DEADLINE)

    def wait_for_routes(self, wanted: Mapping[str, tuple[Route, ...]]) -> bool:
        """Return when every node has these routes, node by node; False by VALIDATION_DEADLINE."""
        return _until(lambda: all(has_routes(one, wanted[one.node]) for one in self._agents), VALIDATION_DEADLINE)

    def _hold(self, settled: Callable[[Agent], bool], deadline: float) -> bool:
        """Was it true of every agent for QUIET seconds on end, before the deadline?"""
        needed = max(1, round(QUIET / _POLL))
        streak = 0

        def done() -> bool:
            nonlocal streak
            streak = streak + 1 if all(settled(agent) for agent in self._agents if agent.exited is None) else 0
            return streak > needed

        return _until(done, deadline)


def _until(done: Callable[[], bool], deadline: float) -> bool:
    return wait_until(done, deadline, every=_POLL)


def has_routes(agent: Agent, wanted: Iterable[Route]) -> bool:
    rows = [row for family in ("-4", "-6") for row in agent.listed("ip", "-j", family, "route", "show")]
    found = {(row.get("dst"), row.get("gateway"), row.get("dev")) for row in rows}
    return all(
        (str(route.destination), str(hop.via) if hop.via else None, hop.dev) in found
        for route in wanted
        for hop in route.nexthops
    )
