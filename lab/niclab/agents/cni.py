"""Plugging pods as a kubelet does: the real cilium-cni, called with the pod's namespace and name."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path

from niclab.agents.agent import Agent
from niclab.errors import LabError
from niclab.host.waiting import try_until
from niclab.net.route import Address

_CONFIGURATION = json.dumps({"cniVersion": "0.3.1", "name": "cilium", "type": "cilium-cni", "enable-debug": False})
PATIENCE = 5.0
"""Seconds for an agent to hear of a new pod; it needs milliseconds, but may be asked before them."""


class _UnheardOf(LabError):
    """The agent has not heard of the pod yet."""


def plug(agent: Agent, pod: str, netns: Path, extra: Mapping[str, str]) -> tuple[Address, ...]:
    """Plug a pod's namespace into the node; `extra` names the pod to the plugin. Its addresses, IPv4 first.

    Raises LabError with the plugin's words. An agent that has not heard of the pod yet is asked again, as kubelets do
    with everything that fails.
    """
    environment = {
        "CNI_COMMAND": "ADD",
        # It must look real: from a short one the plugin makes interface names that the kernel refuses.
        "CNI_CONTAINERID": hashlib.sha256(f"{netns}/{pod}".encode()).hexdigest(),
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        **extra,
    }

    def ask() -> str:
        try:
            return agent.run_cni(_CONFIGURATION, environment)
        except LabError as error:
            # Of pools agents look the pod up first (pkg/ipam/metadata): `resource Pod "default/pod1" not found`.
            unheard_of = re.search(r'resource Pod "[^"]+" not found', error.why)
            raise _UnheardOf(error.what, why=error.why) if unheard_of else error from None

    text = try_until(ask, PATIENCE, retry=_UnheardOf, every=0.1)
    try:
        found = [ipaddress.ip_interface(entry["address"]).ip for entry in json.loads(text)["ips"]]
    except (ValueError, KeyError, TypeError):
        raise LabError(f"cilium-cni plugged {pod} and answered what is no CNI result", why=text[:500]) from None
    return tuple(sorted(found, key=lambda address: address.version))
