"""`niclab graph`: a topology as a picture, in Mermaid's or Graphviz' words. Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence

from niclab.check import load
from niclab.cli import PASS
from niclab.net.route import FAMILIES
from niclab.topology.model import Host, Nic, Node, Topology

Lines = Iterator[str]

_USUAL_MTU = 1500
_FABRIC_COLOUR, _POD_COLOUR = "#e8f0fe", "#e6f4ea"


def run(options: argparse.Namespace) -> int:
    draw = mermaid if options.format == "mermaid" else dot
    print(*draw(load(options.topology)), sep="\n")
    return PASS


def mermaid(topology: Topology) -> Lines:
    """A flowchart: nodes on the left, fabrics in the middle, routers and externals on the right."""
    yield from ("---", f"title: {topology.name}", "---", "flowchart LR")
    pods = topology.pod_addresses()
    for host_name, host in topology.hosts.items():
        yield f'  subgraph {_id("host", host_name)}["{_title(topology, host_name)}"]'
        for name, nic in host.nics.items():
            yield f'    {_id("nic", host_name, name)}["{"<br/>".join(_nic_lines(host, name, nic))}"]'
        for pod in host.pods if isinstance(host, Node) else ():
            yield f'    {_id("pod", pod)}("{"<br/>".join([pod, *map(str, pods[pod])])}"):::pod'
        yield "  end"
    for name, fabric in topology.fabrics.items():
        yield f'  {_id("fabric", name)}(["{"<br/>".join([name, *map(str, fabric.subnets)])}"]):::fabric'
    for host_name, name, nic in topology.nic_pairs():
        cable = " --- " if nic.up else " -.- "
        yield "  " + cable.join(_ends(topology, host_name, _id("nic", host_name, name), _id("fabric", nic.fabric)))
    yield f"  classDef fabric fill:{_FABRIC_COLOUR},stroke:#4285f4"
    yield f"  classDef pod fill:{_POD_COLOUR},stroke:#34a853"


def dot(topology: Topology) -> Lines:
    """An undirected graph for `dot`, laid out as Mermaid's."""
    yield f"graph {_quoted(topology.name)} {{"
    yield '  rankdir=LR; ranksep=1.2; fontname="sans-serif";'
    yield '  node [shape=box, fontname="sans-serif", fontsize=11];'
    pods = topology.pod_addresses()
    for host_name, host in topology.hosts.items():
        yield f"  subgraph {_quoted(f'cluster_{host_name}')} {{"
        yield f"    label={_quoted(_title(topology, host_name))};"
        for name, nic in host.nics.items():
            yield f"    {_quoted(f'{host_name}.{name}')} [label={_quoted(*_nic_lines(host, name, nic))}];"
        for pod in host.pods if isinstance(host, Node) else ():
            label = _quoted(pod, *map(str, pods[pod]))
            yield f'    {_quoted(f"pod {pod}")} [label={label}, style="rounded,filled", fillcolor="{_POD_COLOUR}"];'
        yield "  }"
    for name, fabric in topology.fabrics.items():
        label = _quoted(name, *map(str, fabric.subnets))
        look = f'shape=ellipse, style=filled, fillcolor="{_FABRIC_COLOUR}"'
        yield f"  {_quoted(f'fabric {name}')} [label={label}, {look}];"
    for host_name, name, nic in topology.nic_pairs():
        ends = _ends(topology, host_name, _quoted(f"{host_name}.{name}"), _quoted(f"fabric {nic.fabric}"))
        yield f"  {' -- '.join(ends)}{'' if nic.up else ' [style=dashed]'};"
    yield "}"


def _title(topology: Topology, name: str) -> str:
    kind = "router" if name in topology.routers else "external" if name in topology.externals else ""
    return f"{name} ({kind})" if kind else name


def _nic_lines(host: Host, name: str, nic: Nic) -> Sequence[str]:
    """What is written in a NIC's box; only what is unusual of MTU and state."""
    unusual = [f"MTU {nic.mtu}"] if nic.mtu != _USUAL_MTU else []
    unusual += [] if nic.up else ["down"]
    node_ips = {host.node_ip_of(family) for family in FAMILIES} if isinstance(host, Node) else set()
    addresses = [f"{own} (node IP)" if own.ip in node_ips else str(own) for own in nic.addresses]
    return [" · ".join([name, *unusual]), *addresses]


def _ends(topology: Topology, host: str, nic: str, fabric: str) -> tuple[str, str]:
    """Both ends of a cable, the left one first."""
    return (nic, fabric) if host in topology.nodes else (fabric, nic)


def _id(kind: str, *names: str) -> str:
    """A Mermaid identifier; the prefix keeps `end` and other reserved words apart, and every name its own."""
    return "_".join([kind, *(re.sub(r"[^A-Za-z0-9]", lambda char: f"_{ord(char[0]):x}_", name) for name in names)])


def _quoted(*lines: str) -> str:
    r"""A DOT string; a label's lines are separated by `\n`, an escape of DOT's own."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
