"""Settings as a kept lab stores them: all of them, and the same again when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from niclab.settings.model import Expression, NodeSettings, Selector, Settings
from niclab.settings.values import Values


def to_json(settings: Settings) -> dict[str, Any]:
    """`cluster` and `nodes` say all; what the settings were read from is left out, as in comparisons."""
    return {"cluster": dict(settings.values), "nodes": [_node(node) for node in settings.per_node]}


def from_json(stored: Mapping[str, Any]) -> Settings:
    return Settings(Values(stored["cluster"]), tuple(_node_settings(node) for node in stored["nodes"]))


def lines(stored: Mapping[str, Any]) -> Sequence[str]:
    """For people: `KEY=VALUE`, `NODE:KEY=VALUE`, and behind its name what a CiliumNodeConfig says."""
    shown = [f"{key}={value}" for key, value in stored["cluster"].items()]
    for node in stored["nodes"]:
        who = node["name"] if node["selector"] is None else f"CiliumNodeConfig {node['name']}"
        shown += [f"{who}:{key}={value}" for key, value in node["values"].items()]
    return shown


def _node(node: NodeSettings) -> dict[str, Any]:
    selector = node.selector
    return {
        "name": node.name,
        "values": dict(node.values),
        "selector": None
        if selector is None
        else {
            "labels": dict(selector.labels),
            "expressions": [
                [expression.key, expression.operator, list(expression.values)] for expression in selector.expressions
            ],
        },
    }


def _node_settings(stored: Mapping[str, Any]) -> NodeSettings:
    selector = stored["selector"]
    if selector is not None:
        expressions = tuple(
            Expression(key, operator, tuple(values)) for key, operator, values in selector["expressions"]
        )
        selector = Selector(Values(selector["labels"]), expressions)
    return NodeSettings(stored["name"], selector, Values(stored["values"]))
