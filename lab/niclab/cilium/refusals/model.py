"""What a check has to say, and what several of them ask of the settings. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from niclab.settings import NodeView
from niclab.settings.values import parse_bool

MASQUERADES = '(--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")'


@dataclass(frozen=True, slots=True)
class Refusal:
    """An agent's last words, and where Cilium has them: file and function."""

    words: str
    source: str


def on(settings: NodeView, key: str, *, default: bool = False) -> bool:
    """A boolean that the view has no property for; `default` is the agent's."""
    reported = parse_bool(settings.get(key))
    return default if reported is None else reported


def tunnels(settings: NodeView) -> bool:
    return settings.routing_mode != "native"
