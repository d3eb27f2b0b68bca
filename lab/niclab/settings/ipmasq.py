"""What `enable-ip-masq-agent` reads: the networks that pods' packets are not masqueraded to (pkg/ipmasq/ipmasq.go).

`ip-masq-agent-config-path` names a file of YAML or JSON; the lab also takes what would be in it, in braces:
`{nonMasqueradeCIDRs: [10.0.1.0/24]}`. A file that is empty or not there stands for a list of defaults.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niclab.errors import InputError, Problem
from niclab.net.route import Network, ip_network
from niclab.settings.flags import default
from niclab.topology.yamlfile import load_with_lines, read_text

_KEY = "ip-masq-agent-config-path"
DEFAULT_PATH = default(_KEY)
"""Of an agent in its container; nothing is read from there on the lab's machine."""

DEFAULT_NETWORKS = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
    )
)
_LINK_LOCAL = {"masqLinkLocal": ip_network("169.254.0.0/16"), "masqLinkLocalIPv6": ip_network("fe80::/10")}
_EXAMPLE = f"e.g. {_KEY}={{nonMasqueradeCIDRs: [10.0.0.0/8], masqLinkLocal: false}}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """`text` is what the agent's file holds; `networks` what it makes of it, in the order of the text."""

    text: str
    networks: tuple[Network, ...]


def read(value: str) -> Configuration:
    """The configuration that a value of `ip-masq-agent-config-path` stands for. Raises InputError."""
    try:
        return _read(value)
    except InputError as error:
        why = error.problems[0].why
    except ValueError as error:
        why = str(error)
    shown = value if len(value) <= 60 else f"{value[:57]}…"
    raise InputError([Problem("settings", 0, _KEY, f"{shown}: {why}", _EXAMPLE)])


def _read(value: str) -> Configuration:
    inline = value.lstrip().startswith("{")
    text = value if inline else "" if value in ("", DEFAULT_PATH) else read_text(Path(value))
    if not text.strip():
        return Configuration("", (*DEFAULT_NETWORKS, *_LINK_LOCAL.values()))
    documents, _ = load_with_lines(text, "")
    data = documents[0] if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise ValueError("it is no mapping")
    if inline:
        text = json.dumps(data)
    elif text.lstrip().startswith("{"):
        try:
            json.loads(text)
        except ValueError:
            raise ValueError("agents take a file that begins with a brace for JSON, and it is none") from None
    listed = data.get("nonMasqueradeCIDRs") or []
    networks = [_network(entry) for entry in (listed if isinstance(listed, list) else [listed])]
    # As the agent has it: a file that lists nothing asks for the defaults no more.
    networks += [network for key, network in _LINK_LOCAL.items() if data.get(key) is not True]
    return Configuration(text, tuple(dict.fromkeys(networks)))


def _network(entry: Any) -> Network:
    """Host bits are dropped, as the agent does."""
    address, slash, length = str(entry).partition("/")
    if not slash:
        raise ValueError(f"{entry!r} has no prefix length")
    return ipaddress.ip_network(f"{address}/{length}", strict=False)
