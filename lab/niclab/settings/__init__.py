"""What Cilium is configured with: one object from every format people have, and back."""

from niclab.settings.flags import Values
from niclab.settings.formats import (
    load,
    loads,
    parse_assignments,
    parse_node_assignments,
    to_configmap,
    to_flags,
    to_helm,
)
from niclab.settings.model import (
    CHART_DEFAULTS,
    CILIUM_DEFAULTS,
    LAB_BASELINE,
    Expression,
    NodeSettings,
    NodeView,
    Selector,
    Settings,
    check_keys,
    effective,
    unmodelled,
)

__all__ = [
    "CHART_DEFAULTS",
    "CILIUM_DEFAULTS",
    "LAB_BASELINE",
    "Expression",
    "NodeSettings",
    "NodeView",
    "Selector",
    "Settings",
    "Values",
    "check_keys",
    "effective",
    "load",
    "loads",
    "parse_assignments",
    "parse_node_assignments",
    "to_configmap",
    "to_flags",
    "to_helm",
    "unmodelled",
]
