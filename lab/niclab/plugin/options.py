"""Options that the command line and the pytest plugin share. Standard library only: both load it first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Option = Mapping[str, Any]

DATAPATH: Option = MappingProxyType(
    {
        "choices": ("builtin", "cilium"),
        "help": "cilium: real agents (default where a bundle is at hand); builtin: a model made of kernel parts",
    }
)
CONTROL_PLANE: Option = MappingProxyType(
    {
        "choices": ("kubernetes", "kvstore"),
        "help": "what real agents talk to (default: kubernetes where a bundle of it is at hand)",
    }
)
CILIUM: Option = MappingProxyType(
    {
        "action": "append",
        "metavar": "X.Y",
        "help": "a Cilium version, repeatable (default: 1.18 and 1.20; of real agents every one at hand)",
    }
)
