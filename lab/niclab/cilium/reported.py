"""What a node's agent reports of itself: one type for real agents and for the built-in model."""

from __future__ import annotations

from dataclasses import dataclass, field

from niclab.cilium.node import NodeDecision


@dataclass(frozen=True)
class NodeReport:
    """An agent's report. `reasons`: for every interface why it is, or is not, selected."""

    devices: tuple[str, ...]
    direct_routing_device: str | None
    agent_exits: str | None = None
    masquerading: str = ""
    routing: str = ""
    host_routing: str = ""
    node_ips: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    direct_routing_reason: str = ""
    warnings: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """`ADDRESS TYPE → BACKENDS` of every service frontend."""
    attachments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Interface → the eBPF programs attached to it."""

    @classmethod
    def of(cls, decision: NodeDecision, warnings: tuple[str, ...] = (), services: tuple[str, ...] = ()) -> NodeReport:
        """The built-in model's report: its decision."""
        return cls(
            devices=decision.selected if decision.agent_exits is None else (),
            direct_routing_device=decision.drd.device if decision.agent_exits is None else None,
            agent_exits=decision.agent_exits,
            masquerading=decision.masquerading,
            routing=decision.routing,
            host_routing=decision.host_routing,
            node_ips=tuple(str(address) for address in decision.node_ips.values()),
            reasons={device.name: device.reason for device in decision.devices},
            direct_routing_reason=decision.drd.reason,
            warnings=warnings,
            services=services,
        )

    def __str__(self) -> str:
        if self.agent_exits:
            return f"agent exits: {self.agent_exits}"
        return f"devices [{' '.join(self.devices)}], direct routing device {self.direct_routing_device or 'none'}"
