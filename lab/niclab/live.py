"""A lab that stands becomes another: the kernel is changed, agents react, and the model's decisions follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from niclab.cilium import operations
from niclab.cilium.decisions import Decisions, flushed
from niclab.deployment import Deployment, reported_by
from niclab.errors import LabError
from niclab.flow.predict import World
from niclab.flow.trace import Trace
from niclab.flow.verdict import FlowResult
from niclab.host import neighbours, readiness
from niclab.host.netns import Namespace
from niclab.kernel import edit
from niclab.kernel.difference import difference
from niclab.kernel.edit import pinned
from niclab.kernel.plan import Plan
from niclab.kernel.update import Flushed, update
from niclab.topology import Topology
from niclab.wire.tap import Taps


@dataclass
class Changed:
    """A change that was made. As a context manager it is undone at the end: all is then as it was before it."""

    undo: Callable[[], object]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


class Live:
    """What changes a lab while it runs. Real agents react by themselves, the model's decisions follow the same rules;
    every verb returns when they have, and can be undone: `with lab.link_down("node1.eth1"): …`.

    NICs are named `HOST.NIC`, routes and rules are in iproute2's words. All raise InputError for what is not there, and
    LabError for what the kernel refuses.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._taps = Taps(deployment.substrate, deployment.plan)
        self.topology = deployment.plan.topology
        """As it is now."""
        self.flows: list[FlowResult] = []
        """Every flow measured so far."""
        self.changed_after: int | None = None
        """How many flows were measured before the first change, undone or not; None: nothing was changed. Agents
        remember, so a lab that was changed is of no use to the next test."""
        self._worlds: list[World] = []
        """The lab in each of the states in which flows were measured."""

    @property
    def _state(self) -> int:
        """The number of the state the lab is in."""
        if not self._worlds or self._worlds[-1].decisions is not self._deployment.decisions:
            self._worlds.append(World(self._deployment.decisions))
        return len(self._worlds) - 1

    def expected(self, result: FlowResult) -> tuple[Trace, ...]:
        """Every trace that was predicted for a measured flow, as the lab then was; none when it cannot be sent."""
        return self._worlds[result.state].predict(result.flow)

    def link_down(self, nic: str) -> Changed:
        """Take a NIC down. Its IPv4 routes go with it, its IPv6 routes and addresses too."""
        return self._become(edit.link(self.topology, nic, up=False))

    def link_up(self, nic: str) -> Changed:
        """Bring a NIC up again. Its connected routes come back, no others: the kernel does not remember them."""
        return self._become(edit.link(self.topology, nic, up=True))

    def plug(
        self, nic: str, *, fabric: str, addresses: Sequence[str] | str = (), mtu: int = 1500, up: bool = True
    ) -> Changed:
        """Hot-plug a new NIC into a fabric; it has a tap from the beginning. `mtu` in bytes."""
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        return self._become(edit.plug(self.topology, nic, fabric=fabric, addresses=given, mtu=mtu, up=up))

    def unplug(self, nic: str) -> Changed:
        """Remove a NIC with its cable; the undo plugs a new one of the same name."""
        return self._become(edit.unplug(self.topology, nic))

    def add_address(self, nic: str, address: str) -> Changed:
        return self._become(edit.add_address(self.topology, nic, address))

    def del_address(self, nic: str, address: str) -> Changed:
        return self._become(edit.del_address(self.topology, nic, address))

    def add_route(self, host: str, route: str) -> Changed:
        return self._become(edit.add_route(self.topology, host, route))

    def del_route(self, host: str, route: str) -> Changed:
        """Remove one of the host's own routes; metric, gateway and device may be left out where the rest is clear."""
        return self._become(edit.del_route(self.topology, host, route))

    def add_rule(self, host: str, rule: str) -> Changed:
        return self._become(edit.add_rule(self.topology, host, rule))

    def del_rule(self, host: str, rule: str) -> Changed:
        return self._become(edit.del_rule(self.topology, host, rule))

    def sysctl(self, host: str, key: str, value: str | int) -> Changed:
        """Set a net.* sysctl of a host."""
        target = edit.set_sysctl(self.topology, host, key, str(value))
        try:
            before = read_sysctl(self._deployment.substrate[host], key)
        except OSError as error:
            raise LabError(f"no sysctl {key} on {host}", why=error.strerror or str(error)) from None
        return self._become(target, before=edit.set_sysctl(self.topology, host, key, before))

    def validate_nodes(self) -> None:
        """Return when agents have validated their nodes once more, which they do about once a minute: only then are
        direct node routes that a link took along installed again."""
        validate(self._deployment)

    def _become(self, topology: Topology, *, before: Topology | None = None) -> Changed:
        start = before or self.topology
        if self.changed_after is None:
            self.changed_after = len(self.flows)
        become(self._deployment, self._taps, start, topology)
        self.topology = self._deployment.plan.topology

        def undo() -> None:
            become(self._deployment, self._taps, self.topology, start)
            self.topology = self._deployment.plan.topology

        return Changed(undo)


def become(deployment: Deployment, taps: Taps, before: Topology, topology: Topology) -> None:
    """Change what differs from `before`, and return when agents have settled or a deadline has passed. Raises LabError.

    What agents then say is an observation, be it what was predicted or not.
    """
    start, target = pinned(before), pinned(topology)
    plan = Plan(target, deployment.plan.cables)
    old = replace(deployment.decisions, topology=start)
    new = old.after(target)
    settling = deployment.cilium.settling() if deployment.cilium else None
    deployment.substrate.apply(difference(start, target, plan.cables))
    deployment.plan = plan
    taps.plug(plan)
    if settling is None:
        _follow(deployment, old, new, flushed(start, target))
    readiness.wait(deployment.substrate)
    neighbours.forget(deployment.substrate, target.hosts)
    if settling is not None:
        settling.wait(old, new)
    if deployment.speakers is not None:
        deployment.speakers.follow(new)
    _say(deployment, new)


def validate(deployment: Deployment) -> None:
    """Return when every agent has validated its nodes once more, and direct node routes are what they should be."""
    before = deployment.decisions
    after = before.validated()
    if deployment.cilium is None:
        _follow(deployment, before, after, frozenset())
    else:
        wanted = {name: after.direct_routes(name)[0] for name in after.running}
        deployment.cilium.settling().wait_for_routes(wanted)
    _say(deployment, after)


def read_sysctl(namespace: Namespace, key: str) -> str:
    """A sysctl of a host as it is now. Raises OSError."""
    with namespace.entered():
        return Path("/proc/sys", key.replace(".", "/")).read_text().strip()


def _follow(deployment: Deployment, before: Decisions, after: Decisions, gone: Flushed) -> None:
    """The built-in datapath does what the agents decided."""
    deployment.substrate.apply(update(operations.operations(before), operations.operations(after), gone))


def _say(deployment: Deployment, decisions: Decisions) -> None:
    deployment.decisions = decisions
    deployment.reported = deployment.cilium.reported() if deployment.cilium else reported_by(decisions)


__all__ = ["Changed", "Live"]
