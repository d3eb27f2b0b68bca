"""Plugging pods as a kubelet does: the real cilium-cni, called with the pod's namespace and name."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from niclab.agents.agent import Agent
from niclab.errors import LabError
from niclab.host.waiting import try_until
from niclab.net.route import Address

_CONFIGURATION = json.dumps({"cniVersion": "0.3.1", "name": "cilium", "type": "cilium-cni", "enable-debug": False})


@dataclass(frozen=True)
class Plugged:
    """A pod that has been plugged: its addresses, IPv4 first."""

    pod: str
    addresses: tuple[Address, ...]


PATIENCE = 5.0
"""Seconds for an agent to hear of a new pod; it needs milliseconds, but may be asked before them."""


class _UnheardOf(LabError):
    """The agent has not heard of the pod yet."""


def plug(agent: Agent, pod: str, netns: Path, extra: Mapping[str, str]) -> Plugged:
    """Plug a pod's namespace into the node; `extra` names the pod to the plugin. Raises LabError with its words.

    An agent that has not heard of the pod yet is asked again, as kubelets do with everything that fails.
    """
    environment = {**_environment(pod, netns, "ADD"), **extra}

    def ask() -> str:
        try:
            return agent.run_cni(_CONFIGURATION, environment)
        except LabError as error:
            raise _UnheardOf(error.what, why=error.why) if _is_unheard_of(error.why) else error from None

    text = try_until(ask, PATIENCE, retry=_UnheardOf, every=0.1)
    try:
        found = [ipaddress.ip_interface(entry["address"]).ip for entry in json.loads(text)["ips"]]
    except (ValueError, KeyError, TypeError):
        raise LabError(f"cilium-cni plugged {pod} and answered what is no CNI result", why=text[:500]) from None
    return Plugged(pod, tuple(sorted(found, key=lambda address: address.version)))


def _is_unheard_of(words: str) -> bool:
    """Of pools agents look the pod up first (pkg/ipam/metadata): `resource Pod "default/pod1" not found`."""
    return re.search(r'resource Pod "[^"]+" not found', words) is not None


def unplug(agent: Agent, pod: str, netns: Path) -> None:
    """Take a pod off the node. Raises LabError."""
    agent.run_cni(_CONFIGURATION, _environment(pod, netns, "DEL"))


def _environment(pod: str, netns: Path, command: str) -> dict[str, str]:
    # A container id must look real: from a short one the plugin makes interface names that the kernel refuses.
    container = hashlib.sha256(f"{netns}/{pod}".encode()).hexdigest()
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
