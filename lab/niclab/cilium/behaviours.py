"""What differs between Cilium versions, as named facts: the only place where a version is compared with a number. Pure.

A behaviour holds from one minor version on (`since`), up to another (`until`, the first version without it), or
between the two. `words` says what happens where it holds, `otherwise` what happens where it does not. `source` is the
Cilium file or commit it was read in; `measured` names the builds whose agents were seen to do so, else the sources are
all there is: those of 1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 (2026-07-07) and 1.21 (2026-08-05).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from niclab.cilium.version import Version

_16, _17, _18, _19, _20, _21 = (Version(1, minor) for minor in range(16, 22))
_BOTH = "1.18.10 and 1.20.0-dev"


class Area(StrEnum):
    """What a behaviour is about."""

    SELECTION = "device selection"
    DIRECT_ROUTING = "direct routing device"
    ADDRESSES = "node addresses"
    MTU = "MTU"
    ROUTING = "pods' routing"
    MASQUERADING = "masquerading"
    SERVICES = "services"
    EGRESS = "egress gateway"
    ENI = "IPAM mode eni"
    REFUSALS = "refused settings"


@dataclass(frozen=True, slots=True)
class _Fact:
    area: Area
    words: str
    otherwise: str
    source: str
    since: Version | None = None
    until: Version | None = None
    measured: str = ""


class Behaviour(Enum):
    """A named fact that differs between Cilium versions."""

    LIST_BEFORE_STATE = _Fact(
        Area.SELECTION,
        "`devices` is asked first: a listed NIC is selected even when it is down or has no address",
        "a listed NIC that is down or has no address is not selected",
        "6d5900a0d7, PR #41837; pkg/datapath/linux/devices_controller.go isSelectedDevice",
        since=_19,
        measured=_BOTH,
    )
    LIST_EXCLUDES = _Fact(
        Area.SELECTION,
        "an entry `!name` of `devices` excludes that NIC",
        "an entry `!name` of `devices` is a name that no NIC has",
        "31748fcda0, PR #40152; pkg/datapath/tables/device.go DeviceFilter.Match",
        since=_19,
        measured="1.18.0-dev and 1.21.0-dev",
    )
    ALTERNATIVE_NAMES = _Fact(
        Area.SELECTION,
        "`devices` also matches a NIC's alternative names",
        "`devices` matches a NIC's own name only",
        "a0fa9ffaf9; pkg/datapath/tables/device.go DeviceFilter.Match",
        since=_20,
    )
    USABLE_ADDRESSES = _Fact(
        Area.SELECTION,
        "an IPv6 address that is tentative, or failed duplicate address detection, does not count",
        "an IPv6 address counts while it is tentative, and after it failed duplicate address detection",
        "48f843a8c2; pkg/datapath/linux/devices_controller.go",
        since=_20,
    )
    VRF_PORTS = _Fact(
        Area.SELECTION,
        "a NIC in a VRF can be detected; a NIC whose parent is unknown is refused for that",
        "a NIC in a VRF is never detected, as one in a bridge or a bond",
        "bac08dfb5c; pkg/datapath/linux/devices_controller.go isSelectedDevice",
        since=_20,
    )
    NEIGHBOUR_MESSAGES = _Fact(
        Area.SELECTION,
        "a change to a neighbour entry makes the agent look again at a NIC that is not selected",
        "neighbour entries are not listened to",
        "pkg/datapath/linux/devices_controller.go processBatch (enable-statedb-neighbor-sync)",
        since=_18,
    )
    IPSEC_REQUIRES_DEVICES = _Fact(
        Area.SELECTION,
        "IPsec needs a selected device",
        "IPsec runs without a selected device",
        "pkg/option/config.go AreDevicesRequired",
        since=_17,
    )
    MASQUERADING_WITHOUT_NODE_PORT = _Fact(
        Area.SELECTION,
        "eBPF masquerading does not need NodePort, and needs a selected device itself",
        "eBPF masquerading needs NodePort: without it the agent exits",
        "pkg/option/config.go AreDevicesRequired; daemon/cmd/daemon.go",
        since=_19,
    )
    NODE_PORT_OPTION = _Fact(
        Area.SERVICES,
        "`enable-node-port` alone turns node ports on",
        "only `kube-proxy-replacement` turns node ports on",
        "pkg/kpr/kpr.go",
        until=_19,
    )
    DIRECT_ROUTING_ALWAYS = _Fact(
        Area.DIRECT_ROUTING,
        "the direct routing device is always looked for; a configured name that no selected device has falls back to "
        "the device with the node IP",
        "the direct routing device is looked for only where the datapath needs one; a configured name does not fall "
        "back; BPF host routing counts as asked for, not as it is in the end",
        "pkg/datapath/tables/direct_routing_device.go Get; pkg/datapath/linux/devices.go Detect",
        since=_17,
    )
    DEVICES_WARNING = _Fact(
        Area.DIRECT_ROUTING,
        "an agent that runs without a device warns of it",
        "an agent that runs without a device does not warn of it",
        "daemon/cmd/daemon.go",
        until=_18,
    )
    DIRECT_ROUTING_BEST_IPV4 = _Fact(
        Area.DIRECT_ROUTING,
        "its IPv4 address is the best one: not secondary, the wider scope, public before private",
        "its IPv4 address is the first in the kernel's order",
        "e867d3f3e0, #46830; pkg/datapath/linux/config/config.go writeNodeConfigHeader",
        since=_21,
    )
    DIRECT_ROUTING_GLOBAL_IPV6 = _Fact(
        Area.DIRECT_ROUTING,
        "its IPv6 address is the first that is not link-local",
        "its IPv6 address is the first in the kernel's order",
        "pkg/datapath/linux/config/config.go writeNodeConfigHeader",
        since=_18,
    )
    DUMMY_ADDRESSES = _Fact(
        Area.ADDRESSES,
        "addresses of dummy devices are node addresses, whether the device is up or not",
        "addresses of dummy devices are no node addresses unless the device is selected",
        "pkg/datapath/tables/node_address.go getAddressesFromDevice",
        since=_17,
    )
    LOCAL_ROUTE_ADDRESSES = _Fact(
        Area.ADDRESSES,
        "local routes without a source count as addresses of their device, as load balancers of GCE set them",
        "only addresses on interfaces count",
        "pkg/datapath/tables/node_address.go shouldUseDeviceForNodeAddress",
        since=_19,
    )
    LOCAL_ROUTE_SECOND = _Fact(
        Area.ADDRESSES,
        "a local route's address is Primary only where the device has no other Primary of its family",
        "a local route's address is one more Primary of its device",
        "pkg/datapath/tables/node_address.go",
        since=_21,
    )
    FALLBACK_OF_TABLE = _Fact(
        Area.ADDRESSES,
        "the fallback address `*` is one of the devices whose addresses are node addresses",
        "the fallback address `*` may be of any device",
        "pkg/datapath/tables/node_address.go",
        since=_19,
    )
    HOST_SCOPE = _Fact(
        Area.ADDRESSES,
        "addresses up to scope host are node addresses, IPv6 link-local ones too",
        "addresses of scope link or host are no node addresses",
        "7638b511a2; pkg/defaults/defaults_linux.go AddressScopeMax",
        since=_19,
    )
    NODE_IP_IN_ITS_CLASS = _Fact(
        Area.ADDRESSES,
        "a public address is Primary before a private node IP: the source of eBPF masquerading changes with it",
        "the node IP is Primary wherever it is",
        "a598dfd64f, #41866; pkg/datapath/tables/node_address.go",
        since=_20,
    )
    LINK_LOCAL_NEVER_PRIMARY = _Fact(
        Area.ADDRESSES,
        "an IPv6 link-local address is neither Primary nor for node ports",
        "an IPv6 link-local address that is a node address may stand in for a missing one",
        "5b2dbd2421; pkg/datapath/tables/node_address.go",
        since=_20,
    )
    MTU_OF_SELECTED = _Fact(
        Area.MTU,
        "pods get the smallest MTU of the selected devices",
        "pods get the MTU of the device with the node IP",
        "pkg/mtu/manager.go; pkg/mtu/detect_linux.go",
        since=_17,
    )
    WIREGUARD_95 = _Fact(
        Area.MTU,
        "WireGuard takes 95 bytes of the routes' MTU",
        "WireGuard takes 80 bytes of the routes' MTU",
        "pkg/mtu/mtu.go getRouteMTU",
        since=_20,
    )
    UNDERLAY_COUNTED = _Fact(
        Area.MTU,
        "where IPv4 is off the tunnel's outer header counts as IPv6, 20 bytes more",
        "the tunnel's outer header counts as IPv4",
        "pkg/mtu/cell.go",
        since=_18,
        until=_19,
    )
    UNDERLAY_PROTOCOL = _Fact(
        Area.MTU,
        "`underlay-protocol` says which family the tunnel's outer header has",
        "there is no `underlay-protocol`",
        "pkg/datapath/tunnel/tunnel.go",
        since=_19,
    )
    UNDERLAY_FOLLOWS_FAMILIES = _Fact(
        Area.MTU,
        "without `underlay-protocol` the outer header is of the first family that is enabled",
        "the outer header is not taken from the families that are enabled, but in 1.18 where IPv4 is off",
        "pkg/datapath/tunnel/tunnel.go",
        since=_20,
    )
    SKIPS_FIB = _Fact(
        Area.ROUTING,
        "with BPF host routing and one selected device, pods' packets go to that device without a FIB lookup",
        "pods' packets follow the kernel's routes, to selected and unselected NICs alike",
        "b483d1346e; pkg/datapath/linux/config/config.go writeTemplateConfig (ENABLE_SKIP_FIB); bpf/lib/fib.h",
        until=_19,
        measured="1.18.0-dev, 1.18.10 and 1.20.0-dev",
    )
    IPSEC_LEGACY_ROUTING = _Fact(
        Area.ROUTING,
        "IPsec turns BPF host routing off",
        "IPsec and BPF host routing go together",
        "daemon/cmd/kube_proxy_replacement.go finishKubeProxyReplacementInit",
        until=_19,
    )
    OWN_ADDRESS_DROPPED = _Fact(
        Area.ROUTING,
        "a pod's packet to an address of its own node on an unselected NIC is dropped (FIB lookup failed, 4)",
        "a pod's packet to an address of its own node on an unselected NIC is handed to the kernel",
        "4415e131d4, in 1.18 by 1.18.6; bpf/bpf_lxc.c handle_ipv4_from_lxc",
        until=_18,
    )
    REMOTE_NODE_MASQUERADE = _Fact(
        Area.MASQUERADING,
        "`enable-remote-node-masquerade` masquerades packets to remote nodes' IPs too, and needs eBPF masquerading",
        "there is no `enable-remote-node-masquerade`",
        "3f0383ba60; bpf/lib/nat.h snat_v4_needs_masquerade",
        since=_19,
    )
    ROUTE_SOURCES_BY_PREFIX = _Fact(
        Area.MASQUERADING,
        "masquerading to route sources: the rule of the longest prefix comes first",
        "masquerading to route sources: rules stand in the kernel's order of routes",
        "f25e33390b; pkg/datapath/iptables/iptables.go installMasqueradeRouteSourceRules",
        since=_20,
        measured=_BOTH,
    )
    POD_TRANSLATES_ANSWERS = _Fact(
        Area.SERVICES,
        "a local backend's answer is translated back at the pod, whichever NIC it leaves by",
        "a local backend's answer is translated back at a selected NIC: by another it leaves with the pod's address",
        "e964b0ac1e; bpf/lib/nodeport_egress.h nodeport_rev_dnat_fwd_ipv4",
        until=_17,
        measured=f"{_BOTH}, which do not",
    )
    POD_TRANSLATES_ANSWERS_IPSEC = _Fact(
        Area.SERVICES,
        "with IPsec a local backend's answer is translated back at the pod",
        "with IPsec a local backend's answer is translated back at a selected NIC, as without",
        "6a7570d565; bpf/lib/nodeport_egress.h",
        until=_19,
    )
    NODE_PORT_SOURCE_BY_ROUTE = _Fact(
        Area.SERVICES,
        "`enable-dynamic-source-lookup-nodeport`: a remote backend sees the source that the route to it says",
        "a remote backend sees the direct routing device's address, whichever NIC the request leaves by",
        "6c788332c0; bpf/lib/nodeport.h tail_nodeport_nat_egress_ipv4 (fib_lookup_src_v4)",
        since=_20,
        measured="1.20.0-dev",
    )
    EGRESS_NIC_IPV6 = _Fact(
        Area.EGRESS,
        "IPv6: a policy's interface is the NIC that the gateway sends by",
        "IPv6: the route of the egress IP chooses the gateway's NIC",
        "pkg/egressgateway/policy.go (cilium_egress_gw_policy_v6)",
        since=_19,
    )
    EGRESS_NIC_IPV4 = _Fact(
        Area.EGRESS,
        "IPv4: a policy's interface is the NIC that the gateway sends by",
        "IPv4: the route of the egress IP chooses the gateway's NIC, which may not be the policy's",
        "ba4bf816bd, dde5e7cee2; pkg/egressgateway/policy.go (cilium_egress_gw_policy_v4_v2)",
        since=_20,
        measured=_BOTH,
    )
    EGRESS_IP_FOR_BOTH_FAMILIES = _Fact(
        Area.EGRESS,
        "a policy with an egress IP sends the other family by the same NIC, with that NIC's first address",
        "a policy with an egress IP has no way out for the other family",
        "pkg/egressgateway/policy.go deriveFromPolicyGatewayConfig",
        since=_20,
    )
    ENI_ANSWERS_BY_OWN_NIC = _Fact(
        Area.ENI,
        "with eBPF masquerading a pod's answers leave by the pod's own NIC",
        "a pod's answers leave by the NIC that the routes choose",
        "PR #35298; bpf/lib/nodeport_egress.h nodeport_snat_fwd_ipv4 (parent_ifindex)",
        since=_17,
        until=_21,
    )
    ENI_WORLD_BY_MAIN = _Fact(
        Area.ENI,
        "with masquerading a pod's packets to the world leave by table main, the primary NIC",
        "all of a pod's packets leave by its own NIC",
        "58be8e42aa, 483fb470a0, #45137, #20554; pkg/datapath/linux/routing/routing.go Configure",
        until=_21,
    )
    ENI_COMPATIBLE_RULES = _Fact(
        Area.ENI,
        "`egress-multi-home-ip-rule-compat`: a NIC's table has the number of its interface",
        "a NIC's table has the NIC's number on its instance, plus ten",
        "pkg/datapath/linux/routing/routing.go Configure",
        until=_19,
    )
    CHECKS_BEFORE_DEVICES = _Fact(
        Area.REFUSALS,
        "all settings are checked before devices are looked for (initAndValidateDaemonConfig)",
        "IPsec is checked with the options, masquerading after the direct routing device was found",
        "daemon/cmd/daemon.go newDaemon, initAndValidateDaemonConfig; pkg/kpr/initializer",
        since=_19,
        measured=_BOTH,
    )
    REPLACEMENT_IS_BOOLEAN = _Fact(
        Area.REFUSALS,
        "`kube-proxy-replacement` is a boolean of the flag's type: other words fail before anything else",
        "`kube-proxy-replacement` is a word that is checked for true and false",
        "pkg/kpr/kpr.go",
        since=_19,
        measured=_BOTH,
    )
    REPLACEMENT_BY_KPR = _Fact(
        Area.REFUSALS,
        "a wrong `kube-proxy-replacement` is pkg/kpr's to refuse",
        "a wrong `kube-proxy-replacement` is named in the refusal",
        "pkg/kpr/kpr.go NewKPRConfig",
        since=_18,
    )
    MASQUERADING_NEEDS_POD_CIDR = _Fact(
        Area.REFUSALS,
        "iptables masquerading without listed interfaces is refused with pools and ENIs",
        "iptables masquerading runs with every IPAM mode",
        "9b3cdde533; pkg/datapath/iptables/iptables.go newIptablesManager",
        since=_19,
    )
    EGRESS_GATEWAY_OPTION = _Fact(
        Area.REFUSALS,
        "`enable-egress-gateway` turns egress gateways on",
        "`enable-ipv4-egress-gateway` turns egress gateways on",
        "pkg/egressgateway/manager.go",
        since=_18,
    )
    EGRESS_GATEWAY_IPV4_OPTION = _Fact(
        Area.REFUSALS,
        "`enable-ipv4-egress-gateway` is known",
        "`enable-ipv4-egress-gateway` is gone",
        "pkg/egressgateway/manager.go",
        until=_19,
    )
    EGRESS_GATEWAY_NEEDS_CRD = _Fact(
        Area.REFUSALS,
        "egress gateways are refused with any identity allocation mode but crd",
        "egress gateways are refused with identities in a kvstore",
        "pkg/egressgateway/manager.go NewEgressGatewayManager",
        since=_17,
    )
    EGRESS_GATEWAY_IPV4_UNDERLAY = _Fact(
        Area.REFUSALS,
        "egress gateways are refused with an IPv6 underlay",
        "there is no IPv6 underlay to refuse",
        "pkg/egressgateway/manager.go NewEgressGatewayManager",
        since=_19,
    )
    NEEDS_IPTABLES_RULES = _Fact(
        Area.REFUSALS,
        "kube-proxy replacement and eBPF masquerading need `install-iptables-rules`",
        "kube-proxy replacement and eBPF masquerading run without iptables rules",
        "daemon/cmd/daemon.go initAndValidateDaemonConfig",
        since=_20,
    )
    QUOTED_DISPATCH = _Fact(
        Area.REFUSALS,
        "the refusal of a DSR dispatch quotes its name",
        "the refusal of a DSR dispatch does not quote its name",
        "daemon/cmd/kube_proxy_replacement.go initKubeProxyReplacementOptions",
        since=_18,
    )
    BPF_TPROXY = _Fact(
        Area.REFUSALS,
        "the L7 proxy runs without iptables rules where `enable-bpf-tproxy` is on",
        "the L7 proxy needs iptables rules",
        "daemon/cmd/daemon_main.go initEnv",
        since=_20,
    )
    IPSEC_NEEDS_IPV4 = _Fact(
        Area.REFUSALS,
        "IPsec is refused without IPv4",
        "IPsec runs with IPv6 alone",
        "daemon/cmd/daemon_main.go initEnv",
        until=_18,
    )
    HYBRID_ROUTING = _Fact(
        Area.REFUSALS,
        "refusals speak of native or hybrid routing",
        "refusals speak of tunnelling",
        "daemon/cmd/daemon_main.go initEnv",
        since=_20,
        measured=_BOTH,
    )
    MULTI_POOL_IN_TUNNELS = _Fact(
        Area.REFUSALS,
        "IPAM mode multi-pool runs in tunnel mode, and there with IPsec",
        "IPAM mode multi-pool is refused in tunnel mode and with IPsec",
        "daemon/cmd/daemon_main.go initEnv",
        since=_18,
    )
    MULTI_POOL_IPSEC_IN_TUNNELS_ONLY = _Fact(
        Area.REFUSALS,
        "IPAM mode multi-pool with IPsec is refused with native routing",
        "IPAM mode multi-pool runs with IPsec and native routing",
        "daemon/cmd/daemon_main.go initEnv",
        until=_19,
    )
    ENI_IPV6 = _Fact(
        Area.REFUSALS,
        "IPAM mode eni runs with IPv6 enabled",
        "IPAM mode eni is refused with IPv6 enabled",
        "pkg/option/config.go Validate",
        since=_20,
    )

    def holds(self, version: Version) -> bool:
        fact = self.value
        return (fact.since is None or version >= fact.since) and (fact.until is None or version < fact.until)

    @property
    def id(self) -> str:
        return self.name.lower().replace("_", "-")

    def words_in(self, version: Version) -> str:
        """What happens in a version."""
        return self.value.words if self.holds(version) else self.value.otherwise

    @property
    def known(self) -> str:
        """How it is known."""
        return f"measured on {self.value.measured}" if self.value.measured else "read in source"

    @property
    def span(self) -> str:
        """The versions in which it holds."""
        since, until = self.value.since, self.value.until
        last = Version(until.major, until.minor - 1) if until else None
        if since and last:
            return f"{since} to {last}"
        return f"from {since}" if since else f"up to {last}"


def changes(before: Version, after: Version) -> tuple[Behaviour, ...]:
    """What differs between two versions."""
    return tuple(behaviour for behaviour in Behaviour if behaviour.holds(before) != behaviour.holds(after))
