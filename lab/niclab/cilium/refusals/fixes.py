"""What to set when an agent refuses to run: by the words it exits with. Pure."""

from __future__ import annotations

import re

from niclab.settings.known import agent_keys

_MENDS = (
    (
        "unable to determine direct routing device",
        "select the device that has the node IP (devices), or name a selected one (direct-routing-device)",
    ),
    (
        "auto-direct-node-routes",
        "set routing-mode=native with ipv4-native-routing-cidr, or leave auto-direct-node-routes out",
    ),
    ("native routing cidr must be configured", "set ipv4-native-routing-cidr to the range that holds every pod CIDR"),
    ("BPF ip-masq-agent requires", "set enable-bpf-masquerade=true and enable-ipv4-masquerade=true"),
    ("BPF masquerade requires", "set enable-ipv4-masquerade=true, or leave enable-bpf-masquerade out"),
    (
        "BPF masquerading to route source",
        "set enable-bpf-masquerade=false, or leave enable-masquerade-to-route-source out",
    ),
    ("BPF masquerade does not allow to specify devices", "use devices, not egress-masquerade-interfaces"),
    ("Either IPv4 or IPv6 addressing must be enabled", "set enable-ipv4=true or enable-ipv6=true"),
    ("Host firewall's external facing device", "name the devices (devices): none is selected"),
)


_FLAG = re.compile(r"(?:--|\b)([a-z0-9]+(?:-[a-z0-9]+)+)\b")


def fix(exits: str) -> str:
    """How an agent that exits with these words is made to run: as is known here, else by the flags that they name."""
    known = next((how for part, how in _MENDS if part in exits), "")
    flags = list(dict.fromkeys(flag for flag in _FLAG.findall(exits) if flag in agent_keys()))
    return known or (f"tell it otherwise: {', '.join(flags)}" if flags else "")
