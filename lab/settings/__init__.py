"""What Cilium is told: one object from every format people have, and back."""

from lab.settings.assignments import parse_assignments, parse_node_assignments
from lab.settings.bearing import MODELLED, NEUTRAL, neutral, unmodelled
from lab.settings.formats import load, loads
from lab.settings.keys import KeyReport, check_keys
from lab.settings.model import (
    CHART_DEFAULTS,
    CILIUM_DEFAULTS,
    LAB_BASELINE,
    Expression,
    NodeSettings,
    Selector,
    Settings,
    effective,
)
from lab.settings.render import to_configmap, to_flags, to_helm
from lab.settings.values import Values
from lab.settings.view import NodeView

__all__ = [
    "CHART_DEFAULTS",
    "CILIUM_DEFAULTS",
    "LAB_BASELINE",
    "MODELLED",
    "NEUTRAL",
    "Expression",
    "KeyReport",
    "NodeSettings",
    "NodeView",
    "Selector",
    "Settings",
    "Values",
    "check_keys",
    "effective",
    "load",
    "loads",
    "neutral",
    "parse_assignments",
    "parse_node_assignments",
    "to_configmap",
    "to_flags",
    "to_helm",
    "unmodelled",
]
