"""Who talks to whom, in the words of a topology file and of the command line."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from niclab.errors import InputError, Problem
from niclab.topology.fields import Model, Protocol, parsed, words

_FLOW = re.compile(
    r"^\s*(?P<source>\S+?)\s*(?:->|→)\s*(?P<destination>[^\s:]+)(?::(?P<protocol>\w+)(?::(?P<port>\d{1,9}))?)?\s*$"
)
_PROTOCOLS: dict[str, tuple[Protocol, Literal[6] | None]] = {
    "icmp": ("icmp", None),
    "udp": ("udp", None),
    "tcp": ("tcp", None),
    "icmp6": ("icmp", 6),
    "udp6": ("udp", 6),
    "tcp6": ("tcp", 6),
}


class Flow(Model):
    """Who talks to whom: ends are a pod, an external, or a NIC written `node.nic`; `family` None means IPv4 if any.

    The destination may be a service, then protocol and port are the service's own.
    """

    source: str
    destination: str
    protocol: Protocol = "icmp"
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    family: Literal[4, 6] | None = None

    @classmethod
    def parse(cls, text: str) -> Flow:
        """A flow from `FROM -> TO[:udp:PORT|:tcp:PORT|:icmp|:icmp6]`. Raises ValueError."""
        match = _FLOW.match(text)
        if not match:
            raise ValueError(f"{text!r} is not a flow (want FROM -> TO, TO:udp:PORT or TO:tcp:PORT)")
        protocol, port = match["protocol"] or "icmp", match["port"]
        if protocol not in _PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is not icmp, udp or tcp (or icmp6, udp6, tcp6)")
        base, family = _PROTOCOLS[protocol]
        if base == "icmp" and port is not None:
            raise ValueError("ICMP has no port")
        if base != "icmp" and (port is None or not port.isascii() or not 0 < int(port) < 65536):
            raise ValueError(f"a {base} flow ends in a port 1..65535: {match['destination']}:{protocol}:PORT")
        return cls(
            source=match["source"],
            destination=match["destination"],
            protocol=base,
            port=int(port) if port else None,
            family=family,
        )

    def __str__(self) -> str:
        text = f"{self.source} -> {self.destination}"
        suffix = "6" if self.family == 6 else ""
        if self.protocol != "icmp":
            return f"{text}:{self.protocol}{suffix}:{self.port}"
        return f"{text}:icmp6" if suffix else text


FlowWords = Annotated[
    Flow,
    parsed(Flow, Flow.parse),
    PlainSerializer(str),
    words("FROM -> TO, optionally :udp:PORT or :tcp:PORT", examples=["pod1 -> ext1:udp:53"]),
]


def asked(text: str) -> Flow:
    """A flow as somebody asks for it. Raises InputError."""
    try:
        return Flow.parse(text)
    except ValueError as error:
        raise InputError([Problem(f"flow {text!r}", 0, "", str(error), "e.g. pod1 -> ext1:udp:53")]) from None
