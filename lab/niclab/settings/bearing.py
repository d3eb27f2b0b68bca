"""Which keys the built-in datapath models, which cannot matter to it, and which it leaves out."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from niclab.settings.values import BOOLEANS, parse_bool
from niclab.settings.view import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from niclab.settings.model import Settings

MODELLED: frozenset[str] = frozenset(
    [
        "auto-direct-node-routes",
        "bpf-lb-external-clusterip",
        "bpf-lb-mode",
        "bpf-lb-sock",
        "bpf-lb-sock-hostns-only",
        "derive-masq-ip-addr-from-device",
        "devices",
        "direct-routing-device",
        "direct-routing-skip-unreachable",
        "egress-masquerade-interfaces",
        "enable-bgp-control-plane",
        "egress-multi-home-ip-rule-compat",
        "enable-bpf-masquerade",
        "enable-dynamic-source-lookup-nodeport",
        "enable-egress-gateway",
        "enable-endpoint-routes",
        "enable-host-firewall",
        "enable-host-legacy-routing",
        "enable-internal-traffic-policy",
        "enable-ip-masq-agent",
        "enable-ipv4",
        "enable-ipv4-egress-gateway",
        "enable-ipv4-masquerade",
        "enable-ipv6",
        "enable-ipv6-masquerade",
        "enable-masquerade-to-route-source",
        "enable-remote-node-masquerade",
        "force-device-detection",
        "ip-masq-agent-config-path",
        "ipv4-native-routing-cidr",
        "ipv4-node",
        "ipv6-native-routing-cidr",
        "ipv6-node",
        "kube-proxy-replacement",
        "mtu",
        "nodeport-addresses",
        "routing-mode",
        "service-no-backend-response",
        "tunnel-port",
        "tunnel-protocol",
    ]
)
"""The keys the built-in datapath acts on; of `tunnel-protocol` only vxlan."""

IPAM_MODES = frozenset({"kubernetes", "cluster-pool", "multi-pool", "eni"})
"""The values of `ipam` that it knows."""

NEUTRAL: frozenset[str] = frozenset(
    [
        "allocator-list-timeout",
        "annotate-k8s-node",
        "api-rate-limit",
        "arping-refresh-period",
        "auto-create-cilium-node-resource",
        "bgp-secrets-namespace",
        "bpf-conntrack-accounting",
        "bpf-distributed-lru",
        "bpf-root",
        "certificates-directory",
        "cgroup-root",
        "cluster-id",
        "cluster-name",
        "cni-exclusive",
        "cni-log-file",
        "config",
        "config-dir",
        "config-sources",
        "connectivity-probe-frequency-ratio",
        "controller-group-metrics",
        "crd-wait-timeout",
        "custom-cni-conf",
        "datapath-plugins-state-dir",
        "debug",
        "debug-verbose",
        "disable-endpoint-crd",
        "disable-envoy-version-check",
        "dns-policy-unload-on-shutdown",
        "dynamic-lifecycle-config",
        "egress-gateway-reconciliation-trigger-interval",
        "enable-bgp-control-plane-status-report",
        "enable-bpf-clock-probe",
        "enable-cilium-api-server-access",
        "enable-cilium-endpoint-slice",
        "enable-cilium-health-api-server-access",
        "enable-drift-checker",
        "enable-dynamic-config",
        "enable-dynamic-lifecycle-manager",
        "enable-endpoint-health-checking",
        "enable-endpoint-lockdown-on-policy-overflow",
        "enable-envoy-config",
        "enable-gateway-api",
        "enable-gops",
        "enable-health-check-loadbalancer-ip",
        "enable-health-check-nodeport",
        "enable-health-checking",
        "enable-hubble",
        "enable-hubble-open-metrics",
        "enable-ingress-controller",
        "enable-ipsec-key-watcher",
        "enable-k8s",
        "enable-k8s-api-discovery",
        "enable-k8s-cluster-network-policy",
        "enable-k8s-endpoint-slice",
        "enable-k8s-event-handover",
        "enable-k8s-networkpolicy",
        "enable-k8s-terminating-endpoint",
        "enable-l2-neigh-discovery",
        "enable-l7-proxy",
        "enable-lb-ipam",
        "enable-metrics",
        "enable-monitor",
        "enable-node-selector-labels",
        "enable-non-default-deny-policies",
        "enable-policy",
        "enable-policy-secrets-sync",
        "enable-sctp",
        "enable-standalone-dns-proxy",
        "enable-tracing",
        "enable-well-known-identities",
        "external-envoy-proxy",
        "fixed-identity-mapping",
        "gops-port",
        "health-check-icmp-failure-threshold",
        "ignore-flags-drift-checker",
        "ingress-secrets-namespace",
        "ip-tracing-option-type",
        "ipam-cilium-node-update-rate",
        "ipsec-key-rotation-duration",
        "iptables-lock-timeout",
        "keep-config",
        "l2-announcements-lease-duration",
        "l2-announcements-renew-deadline",
        "l2-announcements-retry-period",
        "label-prefix-file",
        "labels",
        "lb-state-file",
        "lib-dir",
        "log-driver",
        "log-opt",
        "log-system-load",
        "max-connected-clusters",
        "metrics",
        "metrics-sampling-interval",
        "monitor-aggregation",
        "monitor-aggregation-flags",
        "monitor-aggregation-interval",
        "monitor-queue-size",
        "node-labels",
        "pprof",
        "preallocate-bpf-maps",
        "procfs",
        "prometheus-serve-addr",
        "read-cni-conf",
        "restored-proxy-ports-age-limit",
        "shell-sock-path",
        "socket-path",
        "standalone-dns-proxy-server-port",
        "state-dir",
        "static-cnp-path",
        "synchronize-k8s-nodes",
        "trace-payloadlen",
        "trace-payloadlen-overlay",
        "trace-sock",
        "use-full-tls-context",
        "version",
        "wireguard-persistent-keepalive",
        "write-cni-conf-when-ready",
        "ztunnel-ca-type",
    ]
)
"""Keys that cannot change which NIC carries what: observation, names, limits, files, policy, the L7 proxy."""

NEUTRAL_PREFIXES: tuple[str, ...] = (
    *("agent-", "bpf-ct-", "bpf-events-", "bpf-map-", "clustermesh-", "conntrack-gc-", "dnsproxy-", "endpoint-"),
    *("envoy-", "gateway-api-", "hive-", "http-", "hubble-", "identity-", "k8s-", "kvstore", "mesh-auth-"),
    *("nat-map-stats-", "operator-", "policy-", "pprof-", "proxy-", "status-collector-", "tofqdns-"),
)
"""Beginnings of such keys. `bpf-…-max`, the sizes of maps, are neutral as well."""

_OTHER_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "bgp-router-id-allocation-mode": "default",
        "bpf-lb-acceleration": "disabled",
        "bpf-lb-algorithm": "random",
        "cni-chaining-mode": "none",
        "datapath-mode": "veth",
        "default-lb-service-ipam": "lbipam",
        "enable-auto-protect-node-port-range": "true",
        "enable-identity-mark": "true",
        "enable-ipv4-fragment-tracking": "true",
        "enable-ipv6-ndp": "false",
        "enable-local-node-route": "true",
        "enable-no-service-endpoints-routable": "true",
        "enable-remote-node-identity": "true",
        "enable-source-ip-verification": "true",
        "enable-svc-source-range-check": "true",
        "enable-tcx": "true",
        "enable-xt-socket-fallback": "true",
        "l2-pod-announcements-interface": "eth0",
        "node-port-bind-protection": "true",
        "node-port-range": "30000,32767",
        "packetization-layer-pmtud-mode": "blackhole",
        "route-metric": "0",
        "tunnel-source-port-range": "0-0",
        "underlay-protocol": "ipv4",
    }
)
"""Agent defaults of unmodelled keys that are not "false" or empty, so that a whole ConfigMap does not list them all."""


def unmodelled(settings: Settings) -> tuple[str, ...]:
    """The keys that may bear on which NIC carries what, are not at their default, and are not modelled, sorted."""
    found = {key for _, values in settings.told() for key, value in values.items() if _ignored(key, value)}
    return tuple(sorted(found))


def neutral(key: str) -> bool:
    """Whether the key cannot change which NIC carries what."""
    return key in NEUTRAL or key.startswith(NEUTRAL_PREFIXES) or (key.startswith("bpf-") and key.endswith("-max"))


def _ignored(key: str, value: str) -> bool:
    if key == "tunnel-protocol":
        return value != "vxlan"
    if key == "ipam":
        return value not in IPAM_MODES
    if key in MODELLED or neutral(key):
        return False
    default = DEFAULTS.get(key, _OTHER_DEFAULTS.get(key, ""))
    if value == default or (default == "" and value == "false" and key not in _OTHER_DEFAULTS):
        return False
    same = key in BOOLEANS and parse_bool(value) == (parse_bool(default) or False)
    return not same
