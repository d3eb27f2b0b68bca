"""Settings written in the formats people have; what `loads` reads back as the same settings."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from niclab.errors import InputError, Problem
from niclab.settings.helm import to_helm_values
from niclab.settings.kubernetes import CONFIG_MAP, OVERRIDE_PREFIX
from niclab.settings.model import HOSTNAME_LABEL, NodeSettings, Selector, Settings
from niclab.settings.values import Values

NAMESPACE = "kube-system"


def to_configmap(settings: Settings, *, namespace: str = NAMESPACE) -> str:
    """The ConfigMap, followed by a CiliumNodeConfig for each of `per_node`."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace},
        "data": dict(settings.values),
    }
    return _yaml(config_map, *(_node_config(node, namespace) for node in settings.per_node))


def to_helm(settings: Settings) -> str:
    """Helm values, and behind them as documents of their own the CiliumNodeConfigs, which the chart cannot make."""
    values = to_helm_values(settings.values)
    return _yaml(values, *(_node_config(node, NAMESPACE) for node in settings.per_node))


def to_flags(settings: Settings) -> str:
    """`KEY=VALUE` lines, and `NODE:KEY=VALUE` for single nodes; a CiliumNodeConfig's selector has no such form."""
    chosen = [node.name for node in settings.per_node if node.selector is not None]
    if chosen:
        why = f"flags cannot say which nodes {', '.join(chosen)} selects"
        raise InputError([Problem("flags", 0, "per_node", why, "write a ConfigMap with CiliumNodeConfigs instead")])
    lines = [f"{key}={_quoted(value)}" for key, value in settings.values.items()]
    for node in settings.per_node:
        lines += [f"{node.name}:{key}={_quoted(value)}" for key, value in node.values.items()]
    return "".join(f"{line}\n" for line in lines)


def _node_config(node: NodeSettings, namespace: str) -> dict[str, Any]:
    """One CiliumNodeConfig; a node's own override selects it by its hostname label."""
    if node.selector is None:
        name, selector = f"{OVERRIDE_PREFIX}{node.name}", Selector(Values({HOSTNAME_LABEL: node.name}))
    else:
        name, selector = node.name, node.selector
    expressions = [
        {"key": expression.key, "operator": expression.operator}
        | ({"values": list(expression.values)} if expression.values else {})
        for expression in selector.expressions
    ]
    chooser = {"matchLabels": dict(selector.labels)} if selector.labels or not expressions else {}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNodeConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeSelector": chooser | ({"matchExpressions": expressions} if expressions else {}),
            "defaults": dict(node.values),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as something else, as SafeDumper does, and indents lists below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=4096,
        explicit_start=len(documents) > 1,
    )


def _quoted(value: str) -> str:
    plain = re.fullmatch(r"[^\s\"'#\\\x00-\x1f\x7f-\xa0\u2028\u2029]([^\x00-\x1f\x7f-\xa0\u2028\u2029\\]*\S)?", value)
    # A backslash at a line's end is a shell's: reading takes it for a continuation.
    if value == "" or (plain and " #" not in value and not value.endswith("\\")):
        return value
    return json.dumps(value)
