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
from collections.abc import Iterable, Mapping

from niclab.agents.agent import Agent
from niclab.agents.reported import json_rows
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
        """Return when every agent is as predicted and was at rest for QUIET seconds on end; False by DEADLINE."""
        streak = 0

        def rests() -> bool:
            nonlocal streak
            settled = all(self._settled(agent, before, after) for agent in self._agents if agent.exited is None)
            streak = streak + 1 if settled else 0
            return streak > round(QUIET / _POLL)

        return wait_until(rests, DEADLINE, every=_POLL)

    def _settled(self, agent: Agent, before: Decisions, after: Decisions) -> bool:
        expected = after.nodes[agent.node]
        selected = sorted(expected.selected)
        # Asked for only now and then: it may lag behind, or name none.
        status = agent.status().get("kube-proxy-replacement") or {}
        served, drd = sorted(status.get("devices") or ()), status.get("directRoutingDevice") or None
        header = agent.rundir / "state" / "globals" / "node_config.h"
        began = header.stat().st_mtime if header.exists() else 0.0
        last = loaded(agent.table("health"))
        fresh = last > self._marks[agent.node] or not reloads(before.nodes[agent.node], expected)
        devices = sorted(str(row["Name"]) for row in json_rows(agent.table("devices")) if row.get("Selected"))
        return (
            fresh
            and (not served or served == selected)
            and drd in (None, expected.drd.device)
            and devices == selected
            and began <= last
        )

    def wait_for_routes(self, wanted: Mapping[str, tuple[Route, ...]]) -> bool:
        """Return when every node has these routes, node by node; False by VALIDATION_DEADLINE."""

        def there() -> bool:
            return all(_has_routes(agent, wanted[agent.node]) for agent in self._agents)

        return wait_until(there, VALIDATION_DEADLINE, every=_POLL)


def _has_routes(agent: Agent, wanted: Iterable[Route]) -> bool:
    rows = [row for family in ("-4", "-6") for row in agent.listed("ip", "-j", family, "route", "show")]
    found = {(row.get("dst"), row.get("gateway"), row.get("dev")) for row in rows}
    return all(
        (str(route.destination), str(hop.via) if hop.via else None, hop.dev) in found
        for route in wanted
        for hop in route.nexthops
    )
