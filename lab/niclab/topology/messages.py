"""Pydantic's findings in the words of a topology file: where, why, how to fix it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from niclab.errors import Finding, nearest
from niclab.topology.model import (
    Bgp,
    BgpRouter,
    BgpSpeaker,
    BgpTimers,
    EgressPolicy,
    External,
    Fabric,
    Link,
    Nic,
    Node,
    Pod,
    Router,
    Service,
    Topology,
)
from niclab.topology.yamlfile import Field

_MODELS: dict[str, type[BaseModel]] = {
    "fabrics": Fabric,
    "nodes": Node,
    "externals": External,
    "routers": Router,
    "links": Link,
    "nics": Nic,
    "pods": Pod,
    "services": Service,
    "egress_policies": EgressPolicy,
}
_FIXES = {
    "addresses": "write ADDRESS/LENGTH, e.g. 10.0.0.1/24",
    "routes": "write iproute2's words, e.g. default via 10.0.0.254 dev eth0",
    "rules": "write iproute2's words, e.g. from 10.244.1.0/24 lookup 100",
    "flows": "write FROM -> TO, e.g. pod1 -> ext1:udp:53",
    "mtu": "a whole number of bytes, 68 to 65535",
    "up": "true or false",
    "mac": "six bytes, e.g. 02:00:00:00:00:01",
    "node_ip": "an address of one of the node's NICs, or a list of an IPv4 and an IPv6 one",
    "pod_cidrs": "write ADDRESS/LENGTH, e.g. 10.244.1.0/24",
    "pod_addresses": "write ADDRESS/LENGTH, e.g. 10.0.1.16/28",
    "pools": "pools: {storage: 10.245.1.0/24}",
    "pool": "the name of one of the node's pools",
    "vpc": "write ADDRESS/LENGTH, e.g. 10.0.0.0/16",
    "subnets": "write ADDRESS/LENGTH, e.g. 10.0.0.0/24",
    "fabrics": "fabrics: {f0: {subnets: 10.0.0.0/24}}",
    "links": "links: {bond0: {bond: [eth0, eth1], addresses: 10.0.0.1/24}}",
    "bond": "bond: [eth0, eth1]",
    "bridge": "bridge: [eth2], or [] for none",
    "vlan": "vlan: 100, with parent: eth0; tags are 1 to 4094",
    "parent": "the name of a NIC or link, e.g. eth0",
    "vrf": "vrf: [eth1], with table: 100",
    "table": "the number of a routing table, e.g. 100",
    "mode": "active-backup, balance-rr or balance-xor",
    "dummy": "true or false",
    "nics": "nics: {eth0: {fabric: f0, addresses: [10.0.0.1/24]}}",
    "pods": "pods: [pod1, pod2]",
    "sysctls": "KEY: VALUE, e.g. net.ipv4.conf.eth0.rp_filter: 1",
    "services": "services: {web: {type: NodePort, port: 80, node_port: 30080, pods: [pod1]}}",
    "type": "ClusterIP, NodePort or LoadBalancer",
    "port": "the service's port, 1 to 65535",
    "target_port": "the pods' port, 1 to 65535",
    "protocol": "tcp or udp",
    "node_port": "30000 to 32767",
    "cluster_ip": "write the address alone, e.g. 10.96.0.80",
    "external_ips": "write the addresses alone, e.g. 192.0.2.80",
    "load_balancer_ip": "write the address alone, e.g. 192.0.2.80",
    "external_traffic_policy": "Cluster or Local",
    "internal_traffic_policy": "Cluster or Local",
    "egress_policies": "egress_policies: {out: {pods: pod1, destinations: 10.0.1.0/24, gateways: node2}}",
    "destinations": "write ADDRESS/LENGTH, e.g. 0.0.0.0/0",
    "excluded": "write ADDRESS/LENGTH, e.g. 10.0.0.0/8",
    "gateways": "gateways: node2",
    "interface": "the name of one of the gateway's NICs, e.g. eth1",
    "egress_ip": "write the address alone, e.g. 10.0.1.2",
    "labels": "KEY: VALUE, e.g. app: web",
    "bgp": "bgp: {nodes: {asn: 65000}, routers: {tor0: {asn: 65010}}}",
    "asn": "the number of an autonomous system, 1 to 4294967295, e.g. 65000",
    "networks": "write ADDRESS/LENGTH, e.g. 10.9.0.0/24",
    "advertise": "pod-cidrs, services, or a list of both",
    "timers": "timers: {connect: 1, keepalive: 1, hold: 3}, in seconds",
    "connect": "a whole number of seconds, 1 or more",
    "keepalive": "a whole number of seconds, 1 or more",
    "hold": "a whole number of seconds, 3 or more (RFC 4271)",
    "name": "write it in lower case, e.g. two-nic",
}
_HOST_NAME = "lower-case letters, digits and dashes, at most 32"
_NIC_NAME = "letters, digits, `_`, `.` and `-`, at most 15"
_SERVICE_NAME = "lower-case letters, digits and dashes, at most 32, a letter first"
_PLAIN = {
    "less_than_equal": "{given} is more than {le}",
    "greater_than_equal": "{given} is less than {ge}",
    "literal_error": "{given} is none of {expected}",
    "bool_type": "{given} is neither true nor false",
    "too_short": "there is none",
}


def explain(error: dict[str, Any]) -> Finding:
    """One entry of `ValidationError.errors()`."""
    path: Field = error["loc"]
    if path[-1:] == ("[key]",):
        path = path[:-1]
        return Finding(path, f"{path[-1]!r} is not a name that can be used here", _fix_name(path, error))
    kind, given, context = error["type"], _shown(error.get("input")), error.get("ctx", {})
    if kind == "extra_forbidden":
        return Finding(
            path, f"there is no field {path[-1]!r} here", nearest(str(path[-1]), _model(path[:-1]).model_fields)
        )
    if kind == "missing":
        fix = _fix(path) if path[-1] in _FIXES else f"add `{path[-1]}: …`"
        fix = _FIXES["bgp"] if path[0] == "bgp" and len(path) == 2 else fix
        return Finding(path, f"the field {path[-1]!r} is missing", fix)
    if kind == "value_error":
        return Finding(path, str(context["error"]), _fix(path))
    if kind == "string_pattern_mismatch":
        return Finding(path, f"{given} is no {_field(path)}", _fix(path))
    if kind == "string_type":
        return Finding(path, f"{given} is not text", "put it in quotes")
    if kind.startswith("int_"):
        return Finding(path, f"{given} is not a whole number", _fix(path))
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return Finding(path, f"{given} is not a mapping", _fix_mapping(path))
    if kind in _PLAIN:
        return Finding(path, _PLAIN[kind].format(given=given, **context), _fix(path))
    return Finding(path, f"{error['msg'][0].lower()}{error['msg'][1:]} (got {given})", _fix(path))


def _shown(value: Any) -> str:
    """A value as the file has it, not too long."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def _model(path: Field) -> type[BaseModel]:
    """The model whose fields stand at a path: `nodes.NAME`, `nodes.NAME.nics.NAME`, or the top."""
    if path[:1] == ("bgp",):
        below: dict[str, type[BaseModel]] = {"timers": BgpTimers, "routers": BgpRouter}
        return Bgp if len(path) == 1 else below.get(str(path[1]), BgpSpeaker)
    return _MODELS.get(str(path[-2]), Topology) if len(path) >= 2 else Topology


def _fix_mapping(path: Field) -> str:
    if path == ("bgp", "routers"):
        return "routers: {tor0: {asn: 65010}}"
    if path[:1] == ("bgp",) or (len(path) >= 2 and path[-2] in _MODELS):
        return f"write its fields: {', '.join(_model(path).model_fields)}"
    return _FIXES.get(_field(path), "write `name: …` entries below it")


def _fix_name(path: Field, error: dict[str, Any]) -> str:
    if error["type"] == "string_type":
        return f'put it in quotes: "{path[-1]}"'
    if len(path) >= 2 and path[-2] == "services":
        return _SERVICE_NAME
    return _NIC_NAME if len(path) >= 2 and path[-2] in ("nics", "links") else _HOST_NAME


def _field(path: Field) -> str:
    return next((str(part) for part in reversed(path) if isinstance(part, str)), "")


def _fix(path: Field) -> str:
    if path[2:3] == ("pods",) and path[4:5] == ("addresses",):
        return "write the address alone, e.g. 10.244.1.10"
    return _FIXES.get(_field(path), "see the JSON Schema: niclab validate --schema")
