"""What a real agent says of itself: from its status, its StateDB and, when it exited, its log. Texts in, values out."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from niclab.cilium.reported import NodeReport
from niclab.kernel.plan import END
from niclab.net.route import Address, Network, ip_network

# What wraps the reason in the agent's last line: daemon/cmd/root.go, daemon_main.go and hive's start hooks.
_CABLE = re.compile(rf"{END}[0-9]+$")
"""What the lab's NICs stand on, which a machine does not have."""
_WRAPPERS = re.compile(
    r"^(unable to run agent|failed to start|invalid daemon configuration|daemon creation failed|"
    r"daemon configuration failed|failed to init and validate daemon config|failed to populate object graph|"
    r"start hook failed): ",
    re.IGNORECASE,
)
_MESSAGE = re.compile(r'(?:^|\s)(msg|error)="((?:[^"\\]|\\.)*)"')
_NEXT_HOP, _MP_REACH = 3, 14
_LONG = 0x10
"""RFC 4271, 4.3: a path attribute whose length has two bytes."""


def reported(
    status: Mapping[str, Any],
    devices: str,
    node_addresses: str = "",
    frontends: str = "",
    attachments: Mapping[str, tuple[str, ...]] | None = None,
) -> NodeReport:
    """From the agent's status and its tables `devices`, `node-addresses` and `frontends`."""
    replacement = status.get("kube-proxy-replacement") or {}
    masquerading = status.get("masquerading") or {}
    routing = status.get("routing") or {}
    rows = sorted(json_rows(devices), key=lambda row: int(row.get("Index", 0)))
    rows = [row for row in rows if not _CABLE.match(str(row.get("Name")))]
    reasons = {
        str(row["Name"]): "selected" if row.get("Selected") else str(row.get("NotSelectedReason") or "not selected")
        for row in rows
    }
    selected = tuple(name for name, reason in reasons.items() if reason == "selected")
    # Agents spell it `IPTables` in words and `iptables` in JSON.
    how = "BPF" if str(masquerading.get("mode", "")).upper() == "BPF" else "iptables"
    mode = str(routing.get("inter-host-routing-mode", ""))
    protocol = routing.get("tunnel-protocol")
    return NodeReport(
        devices=selected or tuple(replacement.get("devices") or ()),
        direct_routing_device=replacement.get("directRoutingDevice") or None,
        masquerading=how if masquerading.get("enabled") else "disabled",
        routing=f"tunnel ({protocol})" if mode.lower() == "tunnel" else mode.lower(),
        host_routing=str(routing.get("intra-host-routing-mode", "")),
        node_ips=tuple(address_rows(node_addresses)),
        reasons=reasons,
        services=tuple(frontend_rows(frontends)),
        attachments=dict(attachments or {}),
    )


def exited(words: str) -> NodeReport:
    """What is left of an agent that exited."""
    return NodeReport(devices=(), direct_routing_device=None, agent_exits=words)


def json_rows(text: str) -> list[dict[str, Any]]:
    """The rows of a StateDB table as `db/show --format=json` prints them: one object after the other."""
    decoder = json.JSONDecoder()
    rows: list[dict[str, Any]] = []
    at = text.find("{")
    while at >= 0:
        try:
            row, end = decoder.raw_decode(text, at)
        except ValueError:
            break
        rows.append(row)
        at = text.find("{", end)
    return rows


def address_rows(text: str) -> list[str]:
    """`ADDRESS on DEVICE (primary, nodeport)` for each row of the table `node-addresses`."""
    found = []
    for row in json_rows(text):
        flags = [name.lower() for name in ("Primary", "NodePort") if row.get(name)]
        words = f" ({', '.join(flags)})" if flags else ""
        found.append(f"{row.get('Addr')} on {row.get('DeviceName')}{words}")
    return found


def frontend_rows(text: str) -> list[str]:
    """`ADDRESS TYPE → BACKENDS` for each row of the table `frontends`, in the order of the addresses."""
    found = []
    for row in json_rows(text):
        backends = sorted(str(backend.get("Address")) for backend in row.get("Backends") or ())
        found.append(f"{row.get('Address')} {row.get('Type')} → {', '.join(backends) or 'no backend'}")
    return sorted(found)


def attached(bpffs: Path) -> dict[str, tuple[str, ...]]:
    """Interface → the programs whose links an agent has pinned below its bpffs (pkg/datapath/loader, tcx and XDP)."""
    found: dict[str, tuple[str, ...]] = {}
    for link in sorted((bpffs / "cilium" / "devices").glob("*/links/*")):
        name = link.parent.parent.name
        found[name] = (*found.get(name, ()), link.name)
    return found


def last_words(log: str) -> str | None:
    """Why an agent exited, from its log: the last fatal line without what wraps the reason; else the last error."""
    for level in ("fatal", "panic", "error"):
        for line in reversed(log.splitlines()):
            if f"level={level}" in line or f'"level":"{level}"' in line:
                return _reason(line)
    panic = next((line for line in log.splitlines() if line.startswith(("panic:", "fatal error:"))), None)
    if panic:
        return panic
    reported = [line for line in log.splitlines() if line.strip()]
    return reported[-1].strip() if reported else None


def _reason(line: str) -> str:
    fields: dict[str, str] = {key: value.replace('\\"', '"') for key, value in _MESSAGE.findall(line)}
    # More lines than one are what went wrong while it ended, after the reason.
    words = fields.get("msg", line).partition("\\n")[0]
    if "error" in fields and fields["error"] not in words:
        words = f"{words}: {fields['error']}"
    while (shorter := _WRAPPERS.sub("", words)) != words:
        words = shorter
    return words


def next_hops(routes: Iterable[Mapping[str, Any]]) -> dict[Network, frozenset[Address]]:
    """From `/bgp/routes`: prefix → the next hops of its paths; what the agent originates itself has none."""
    found: dict[Network, frozenset[Address]] = {}
    for route in routes:
        paths = [path.get("path-attributes") or () for path in route.get("paths") or ()]
        hops = [_next_hop([base64.b64decode(one["base64"]) for one in path]) for path in paths]
        known = frozenset(hop for hop in hops if hop is not None and not hop.is_unspecified)
        if known:
            found[ip_network(str(route["prefix"]))] = known
    return found


def _next_hop(attributes: Iterable[bytes]) -> Address | None:
    """From path attributes: flags, type, length, value (RFC 4271, 4.3)."""
    values = {data[1]: data[4:] if data[0] & _LONG else data[3:] for data in attributes}
    if _NEXT_HOP in values:
        return ipaddress.ip_address(values[_NEXT_HOP])
    reach = values.get(_MP_REACH, b"")  # RFC 4760: family, subfamily, length of the next hop, next hop
    return ipaddress.ip_address(reach[4 : 4 + min(reach[3], 16)]) if len(reach) > 4 else None
