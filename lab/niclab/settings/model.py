"""What Cilium is configured with, cluster and single nodes: one frozen object, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from niclab.errors import InputError, Problem
from niclab.settings.flags import VERSIONS, agent_flags, complaint, release, table, unknown
from niclab.settings.values import Values, parse_bool
from niclab.settings.view import NodeView
from niclab.topology.yamlfile import scalar

HOSTNAME_LABEL = "kubernetes.io/hostname"

Base = Literal["lab", "cluster", "chart"]
"""What a source's silence means: a ConfigMap is a `cluster`'s whole configuration (the agent's defaults apply), Helm
values leave the rest to the `chart`, anything else is set on top of the `lab`'s baseline."""

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)

Friendly = str | int | bool | Sequence[str] | None


@dataclass(frozen=True)
class Expression:
    """One of a label selector's matchExpressions."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        present, among = self.key in labels, labels.get(self.key) in self.values
        return {"In": among, "NotIn": not among, "Exists": present, "DoesNotExist": not present}[self.operator]


@dataclass(frozen=True)
class Selector:
    """A Kubernetes label selector; an empty one selects every node."""

    labels: Values = field(default_factory=Values)
    expressions: tuple[Expression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.labels.items()) and all(
            expression.matches(labels) for expression in self.expressions
        )


@dataclass(frozen=True)
class NodeSettings:
    """Settings of some nodes: a CiliumNodeConfig with its selector, or without one an override of the node `name`."""

    name: str
    selector: Selector | None
    values: Values

    @classmethod
    def of(cls, name: str, values: Mapping[str, str], selector: Mapping[str, str] | None = None) -> NodeSettings:
        """`selector` are matchLabels."""
        return cls(name, None if selector is None else Selector(Values(selector)), Values(values))


@dataclass(frozen=True)
class Settings:
    """Canonical agent flags, spelled as in the `cilium-config` ConfigMap, with what differs on single nodes.

    Equal settings hash alike; where they came from (`warnings`, `base`) is no part of that.
    """

    values: Values = field(default_factory=Values)
    per_node: tuple[NodeSettings, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)
    base: Base = field(default="lab", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", Values(self.values))
        object.__setattr__(self, "per_node", _canonical(self.per_node))
        object.__setattr__(self, "warnings", tuple(dict.fromkeys(self.warnings)))
        owned = [(owner, key, value) for owner, values in self.by_owner() for key, value in values.items()]
        if problems := [Problem(who, 0, key, *words) for who, key, value in owned if (words := complaint(key, value))]:
            raise InputError(problems)

    @classmethod
    def of(cls, **friendly: Friendly) -> Settings:
        """Settings as a test writes them: `of(routing="native", devices=["eth0", "eth1"], enable_ipv6=False)`.

        `routing` is routing-mode and `tunnel` is tunnel-protocol; None leaves a key out.
        """
        values: dict[str, str] = {}
        problems: list[Problem] = []
        for word, value in friendly.items():
            if value is None:
                continue
            key = {"routing": "routing-mode", "tunnel": "tunnel-protocol"}.get(word, word.replace("_", "-"))
            values[key] = scalar(value) if isinstance(value, str | int) else ",".join(value)
            if words := unknown(key):
                problems.append(Problem("settings", 0, key, *words))
        if problems:
            raise InputError(problems)
        return cls(Values(values))

    def merged(self, other: Settings) -> Settings:
        """These settings with `other` on top."""
        return Settings(
            values=self.values.over(other.values),
            per_node=self.per_node + other.per_node,
            warnings=self.warnings + other.warnings,
            base=self.base if other.base == "lab" else other.base,
        )

    def with_values(self, values: Mapping[str, str]) -> Settings:
        return replace(self, values=self.values.over(values))

    def by_owner(self) -> tuple[tuple[str, Values], ...]:
        """All values, those of single nodes too, each with words for whose they are."""
        return (("settings", self.values), *((f"settings of {node.name}", node.values) for node in self.per_node))

    def for_node(self, name: str, labels: Mapping[str, str] | None = None) -> NodeView:
        """The settings of the agent on this node.

        The ConfigMap, over it the CiliumNodeConfigs that select the node, in the order of their names so that the
        last one wins (pkg/option/resolver/resolver.go, readNodeConfigs), over these the node's own overrides.
        """
        known = {HOSTNAME_LABEL: name, **(labels or {})}
        values = self.values
        for node in self.per_node:  # CiliumNodeConfigs come first, sorted: see _canonical
            chosen = node.name == name if node.selector is None else node.selector.matches(known)
            if chosen:
                values = values.over(node.values)
        return NodeView(name, values)


def effective(parts: Sequence[Settings]) -> Settings:
    """The parts in order, on the base they need: Cilium's defaults under a whole configuration, else the lab's."""
    bases = {part.base for part in parts}
    start = CHART_DEFAULTS if "chart" in bases else CILIUM_DEFAULTS if "cluster" in bases else LAB_BASELINE
    for part in parts:
        start = start.merged(part)
    return start


def _canonical(per_node: Sequence[NodeSettings]) -> tuple[NodeSettings, ...]:
    """CiliumNodeConfigs by name, then overrides by node; a later object of the same name replaces, overrides add up."""
    objects: dict[str, NodeSettings] = {}
    overrides: dict[str, NodeSettings] = {}
    for node in per_node:
        if node.selector is not None:
            objects[node.name] = node
        elif node.name in overrides:
            overrides[node.name] = replace(node, values=overrides[node.name].values.over(node.values))
        else:
            overrides[node.name] = node
    return (*(objects[name] for name in sorted(objects)), *(overrides[name] for name in sorted(overrides)))


class KeyReport(NamedTuple):
    """Errors must be fixed, warnings are worth reading."""

    errors: tuple[Problem, ...]
    warnings: tuple[str, ...]


def check_keys(settings: Settings, *, version: str) -> KeyReport:
    """Keys no agent has are errors; keys that agents of this version do not have, but others do, are warnings."""
    errors: list[Problem] = []
    warnings: list[str] = []
    here = agent_flags(version)
    for owner, values in settings.by_owner():
        for key in values:
            if words := unknown(key):
                errors.append(Problem(owner, 0, key, *words))
            elif key not in here and (warning := _version_warning(key, version)):
                warnings.append(warning)
    return KeyReport(tuple(errors), tuple(dict.fromkeys(warnings)))


def _version_warning(key: str, version: str) -> str | None:
    flag = table()[key]
    if flag.listed:
        does = "does not" if version in VERSIONS else "may not"
        return f"{key}: agents of Cilium {' and '.join(flag.listed)} have this flag, {version} {does} read it"
    first, last = flag.charts
    if flag.reader == "removed" and not release(first) <= release(version) <= release(last):
        return f"{key}: a flag of older agents (charts {first} to {last} write it), {version} may not read it"
    return None  # hidden from --help: whether this version has it is not known, and no reason to worry anybody


def unmodelled(settings: Settings) -> tuple[str, ...]:
    """The keys that may bear on which NIC carries what, are not at their default, and are not modelled, sorted."""
    pairs = {(key, value) for _, values in settings.by_owner() for key, value in values.items()}
    return tuple(sorted({key for key, value in pairs if _ignored(key, value)}))


def _ignored(key: str, value: str) -> bool:
    flag = table().get(key)
    if flag is None:
        return value not in ("", "false")
    if flag.bearing == "irrelevant" or flag.models(value):
        return False
    if ":" in flag.bearing:  # some values are modelled, and this is another one
        return True
    same = flag.type == "bool" and parse_bool(value) == (parse_bool(flag.default) or False)
    return not same and value not in (flag.default, flag.default or "false")


CILIUM_DEFAULTS = Settings(base="cluster")
"""Nothing is set: the agent's own defaults."""

CHART_DEFAULTS = Settings(Values({"enable-ipv6": "false"}), base="chart")
"""What the Helm chart writes unasked where that differs from the agent's default (values.yaml: `ipv6.enabled`)."""

LAB_BASELINE = Settings(
    Values(
        {
            "enable-bpf-masquerade": "true",
            "enable-endpoint-health-checking": "false",
            "enable-health-checking": "false",
            "enable-hubble": "false",
            "enable-ipv4-masquerade": "true",
            "enable-ipv6": "false",
            "enable-l7-proxy": "false",
            "enable-policy": "never",
            "kube-proxy-replacement": "true",
            "routing-mode": "tunnel",
            "tunnel-protocol": "vxlan",
        }
    )
)
"""A tunnel (VXLAN), IPv4 only, eBPF masquerading and kube-proxy replacement, and nothing that sends packets by itself.

These are the settings of every recorded case of real agents, with Cilium's default routing mode written out.
"""
