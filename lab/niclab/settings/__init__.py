"""What Cilium is configured with, cluster and single nodes: one frozen object, whatever file it came from.

`niclab.settings.formats` reads and writes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, TypeVar, get_args

from niclab.errors import InputError, Problem
from niclab.settings import flags
from niclab.settings.flags import Values
from niclab.topology.model import Topology
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


TUNNEL_PORTS: Mapping[str, int] = MappingProxyType({"vxlan": 8472, "geneve": 6081})
"""pkg/defaults/defaults.go: TunnelPortVXLAN, TunnelPortGeneve."""

_T = TypeVar("_T")


class _Flag(Generic[_T]):
    """A flag's value, read once from its text; the key is the attribute's name, with dashes, unless it is given."""

    def __init__(self, read: Callable[[str], _T], key: str = "") -> None:
        self._read = read
        self._key = key

    def __set_name__(self, owner: type[object], name: str) -> None:
        self._key = self._key or name.replace("_", "-")
        self._name = name

    def __get__(self, view: NodeView, owner: type[object]) -> _T:
        vars(view)[self._name] = value = self._read(view.get(self._key))
        return value


def _on(text: str) -> bool:
    return flags.parse_bool(text) is True


def _tags(text: str) -> frozenset[int]:
    return frozenset(int(tag) for tag in flags.split_list(text) if tag.isascii() and tag.isdigit())


def _choice(default: _T, *others: _T) -> Callable[[str], _T]:
    return lambda text: next((other for other in others if other == text), default)


def _network(kind: type[_T]) -> Callable[[str], _T | None]:
    return lambda text: network if isinstance(network := flags.parse_cidr(text), kind) else None


def _address(text: str) -> str | None:
    return None if text in ("", "auto") else text


@dataclass(frozen=True)
class NodeView:
    """What one node's agent is given: by the ConfigMap, the CiliumNodeConfigs that select it, and its own overrides."""

    node: str
    values: Values

    def get(self, key: str) -> str:
        """The flag's value as text, or its default ("" where this package knows none)."""
        return self.values.get(key, flags.default(key))

    devices = _Flag(flags.split_list)
    """Names and `prefix+` patterns; empty means auto-detection."""
    force_device_detection = _Flag(_on)
    direct_routing_device = _Flag(str)
    routing_mode: ClassVar[_Flag[Literal["tunnel", "native"]]] = _Flag(_choice("tunnel", "native"))
    tunnel_protocol: ClassVar[_Flag[Literal["vxlan", "geneve"]]] = _Flag(_choice("vxlan", "geneve"))
    auto_direct_node_routes = _Flag(_on)
    direct_routing_skip_unreachable = _Flag(_on)
    enable_ipv4 = _Flag(_on)
    enable_ipv6 = _Flag(_on)
    ipv4_masquerade = _Flag(_on, "enable-ipv4-masquerade")
    ipv6_masquerade = _Flag(_on, "enable-ipv6-masquerade")
    bpf_masquerade = _Flag(_on, "enable-bpf-masquerade")
    kube_proxy_replacement = _Flag(lambda text: text == "strict" or _on(text))
    host_legacy_routing = _Flag(_on, "enable-host-legacy-routing")
    """As set; an agent may fall back to legacy routing by itself (kube_proxy_replacement.go:289-305)."""
    endpoint_routes = _Flag(_on, "enable-endpoint-routes")
    ipv4_native_routing_cidr = _Flag(_network(IPv4Network))
    ipv6_native_routing_cidr = _Flag(_network(IPv6Network))
    ipv4_node = _Flag(_address)
    ipv6_node = _Flag(_address)
    ipam = _Flag(str)
    mtu = _Flag(int)
    """0 means that the agent takes it from its devices."""
    egress_masquerade_interfaces = _Flag(flags.split_list)
    masquerade_to_route_source = _Flag(_on, "enable-masquerade-to-route-source")
    ip_masq_agent = _Flag(_on, "enable-ip-masq-agent")
    ip_masq_agent_config = _Flag(str, "ip-masq-agent-config-path")
    """As it is set: `niclab.settings.ipmasq` reads it."""
    egress_rule_compatible = _Flag(_on, "egress-multi-home-ip-rule-compat")
    """Rules of ENIs' pods as they were before 1.8; the flag is gone with 1.19."""
    derive_masquerade_from = _Flag(str, "derive-masq-ip-addr-from-device")
    """The device whose address all masqueraded packets get; the flag is hidden."""
    remote_node_masquerade = _Flag(_on, "enable-remote-node-masquerade")
    """1.18 and later, of eBPF masquerading alone."""
    vlan_bypass = _Flag(_tags, "vlan-bpf-bypass")
    """VLANs whose frames pass selected devices though they are no devices themselves; 0 is all of them."""
    host_firewall = _Flag(_on, "enable-host-firewall")
    wireguard = _Flag(_on, "enable-wireguard")
    encrypt_node = _Flag(_on)
    """WireGuard's, of what comes from and goes to node IPs."""
    ipsec = _Flag(_on, "enable-ipsec")
    l2_announcements = _Flag(_on, "enable-l2-announcements")
    nodeport_addresses = _Flag(flags.split_list)
    load_balancer_mode: ClassVar[_Flag[Literal["snat", "dsr", "hybrid"]]] = _Flag(
        _choice("snat", "dsr", "hybrid"), "bpf-lb-mode"
    )
    """hybrid is DSR for TCP and SNAT for everything else (loadbalancer.go ToSVCForwardingMode)."""
    socket_load_balancing_of_nodes_only = _Flag(_on, "bpf-lb-sock-hostns-only")
    """Pods' packets are translated one by one, at the pod."""
    external_cluster_ip = _Flag(_on, "bpf-lb-external-clusterip")
    """Cluster IPs are served to clients outside the cluster too."""
    dynamic_node_port_source = _Flag(_on, "enable-dynamic-source-lookup-nodeport")
    """1.20 and later: what is forwarded to a backend of another node has the source that the routes choose."""
    local_redirect_policy = _Flag(_on, "enable-local-redirect-policy")
    session_affinity = _Flag(_on, "enable-session-affinity")
    """Up to 1.18, there on by default; kube-proxy replacement turns it on."""
    internal_traffic_policy = _Flag(_on, "enable-internal-traffic-policy")

    @property
    def tunnel_port(self) -> int:
        return int(self.get("tunnel-port")) or TUNNEL_PORTS[self.tunnel_protocol]

    @property
    def egress_gateway(self) -> bool:
        """`enable-ipv4-egress-gateway` up to 1.18, where releases have both names; `enable-egress-gateway` later."""
        return _on(self.get("enable-egress-gateway")) or _on(self.get("enable-ipv4-egress-gateway"))

    @property
    def socket_load_balancing(self) -> bool:
        """Services are translated at the sockets of programs: always so with kube-proxy replacement."""
        return self.kube_proxy_replacement or _on(self.get("bpf-lb-sock"))

    @property
    def refuses_without_backend(self) -> bool:
        """`service-no-backend-response`: reject tells the client, drop does not."""
        return self.get("service-no-backend-response") != "drop"


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
        checked = [
            (who, key, flags.complaint(key, text)) for who, values in self.by_owner() for key, text in values.items()
        ]
        if problems := [Problem(who, 0, key, *words) for who, key, words in checked if words]:
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
            if words := flags.unknown(key):
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


def check_keys(settings: Settings, *, version: str) -> tuple[str, ...]:
    """Warnings of keys that agents of this version do not have, but others do. Raises InputError: no agent has it."""
    keys = [(owner, key) for owner, values in settings.by_owner() for key in values]
    if errors := [Problem(owner, 0, key, *wrong) for owner, key in keys if (wrong := flags.unknown(key))]:
        raise InputError(errors)
    warnings = dict.fromkeys(flags.another_version(key, version) for _, key in keys)
    return tuple(words for words in warnings if words)


def unmodelled(settings: Settings) -> tuple[str, ...]:
    """The keys that may bear on which NIC carries what, are not at their default, and are not modelled, sorted."""
    pairs = {(key, value) for _, values in settings.by_owner() for key, value in values.items()}
    return tuple(sorted({key for key, value in pairs if _ignored(key, value)}))


def _ignored(key: str, value: str) -> bool:
    flag = flags.table().get(key)
    if flag is None:
        return value not in ("", "false")
    if flag.bearing == "irrelevant" or flag.models(value):
        return False
    if ":" in flag.bearing:  # some values are modelled, and this is another one
        return True
    same = flag.type == "bool" and flags.parse_bool(value) == (flags.parse_bool(flag.default) or False)
    return not same and value not in (flag.default, flag.default or "false")


_WANTS: Mapping[str, str] = MappingProxyType(
    {
        "kubernetes": "pod_cidrs alone",
        "multi-pool": "pools",
        "eni": "NICs with pod_addresses",
    }
)
_NEEDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "multi-pool": {},
        # What the Helm chart writes for `eni.enabled` (templates/cilium-configmap.yaml); a tunnel is refused.
        "eni": {"routing-mode": "native", "enable-endpoint-routes": "true"},
    }
)


def fit(settings: Settings, topology: Topology) -> Settings:
    """The settings, with the topology's IPAM mode and what that needs where `ipam` is not set.

    Raises InputError where they ask for a mode that the topology has no addresses for.
    """
    reported = settings.values.get("ipam")
    wanted = topology.ipam
    if reported is None:
        needs = _NEEDS.get(wanted)
        return settings if needs is None else settings.with_values({"ipam": wanted, **needs})
    if (
        reported == wanted
        or (reported not in _NEEDS and wanted not in _NEEDS)
        or (reported, wanted) == ("multi-pool", "kubernetes")
    ):
        return settings
    why = f"the topology's nodes have {_WANTS[wanted]}: their pods' addresses ask for ipam={wanted}"
    fix = f"leave ipam out, or use a topology with {_WANTS[reported]}" if reported in _WANTS else "leave ipam out"
    raise InputError([Problem(topology.name, 0, f"ipam={reported}", why, fix)])


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
