"""What an agent remembers from before a change, and what stands from before: decisions then depend on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from niclab.cilium.selection import Device, Link
from niclab.cilium.selection.runtime import Controller
from niclab.net.route import Route


@dataclass(frozen=True)
class Memory:
    """One node's. `indices`: interface → the index the kernel gave it, which a NIC that is plugged again has anew."""

    controller: Controller
    indices: Mapping[str, int]
    direct_routes: tuple[Route, ...] = ()
    """Direct node routes that stand: an agent adds those that are missing only when it next validates its nodes."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Without what messages of routes without a device leave in the agent's tables: a row without a name."""
        return tuple(link for _, link in sorted(self.controller.links.items()) if link.name)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for _, device in sorted(self.controller.devices.items()) if device.name)
