"""Settings that agents refuse, in the words of their sources; 1.18.10's and 1.20.0-dev's are those of their logs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab import LAB_BASELINE, Settings, Version
from niclab.cilium.refusals import refused
from niclab.cilium.selection.direct_routing import NO_DIRECT_ROUTING_DEVICE, DirectRouting
from niclab.cilium.selection.links import Link
from niclab.cilium.version import VERSIONS
from niclab.settings import Friendly, NodeView

from tests.support.selecting import FROM_1_19, FROM_1_20, UP_TO_1_18, V16, V17, V18, V19, V20

NATIVE: dict[str, Friendly] = {"routing": "native", "ipv4_native_routing_cidr": "10.244.0.0/16"}
NATIVE_CIDR = (
    "native routing cidr must be configured with option --ipv{0}-native-routing-cidr in combination with "
    "--enable-ipv{0}=true --enable-ipv{0}-masquerade=true --enable-ip-masq-agent=false --routing-mode=native "
    "--ipam=cluster-pool"
)
BPF_DEVICES = (
    "unable to initialize BPF masquerade support: BPF masquerade does not allow to specify devices via "
    "--egress-masquerade-interfaces (use --devices instead)"
)
ROUTE_SOURCE = (
    'BPF masquerading to route source (--enable-masquerade-to-route-source="true") currently not supported '
    'with BPF-based masquerading (--enable-bpf-masquerade="true")'
)
IP_MASQ = (
    'BPF ip-masq-agent requires (--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true") and '
    '--enable-bpf-masquerade="true"'
)
DNS = 'IPSec requires DNS proxy transparent mode to be enabled (--dnsproxy-enable-transparent-mode="true")'
SKIP_UNREACHABLE = (
    "Flag direct-routing-skip-unreachable cannot be enabled when auto-direct-node-routes is not enabled. As if "
    "auto-direct-node-routes is then enabled, it may lead to unexpected behaviour causing network connectivity issues."
)
IPTABLES = (
    "kube-proxy replacement (--kube-proxy-replacement) or BPF masquerade (--enable-bpf-masquerade) requires "
    'iptables rules (--install-iptables-rules="true")'
)
KPR = "unable to initialize kube-proxy replacement options: "
NETKIT = "netkit connector not available: netkit devices"
TPROXY = "--enable-bpf-tproxy=true"
IPIP: dict[str, Friendly] = {"bpf_lb_mode": "dsr", "bpf_lb_dsr_dispatch": "ipip"}
UNDER_XDP = "currently only available under XDP acceleration"
BEFORE_1_20 = (*UP_TO_1_18, V19)


def view(**told: Friendly) -> NodeView:
    return LAB_BASELINE.merged(Settings.of(**told)).for_node("node1")


Case = tuple[dict[str, Friendly], Sequence[Version], str]
CASES: list[Case] = [
    ({"enable_ipv4": False}, VERSIONS, "Either IPv4 or IPv6 addressing must be enabled"),
    ({"datapath_mode": "netkit", "enable_bpf_tproxy": True}, FROM_1_20, f"{NETKIT} cannot be used with {TPROXY}"),
    (
        {"datapath_mode": "netkit-l2", "enable_bpf_masquerade": False},
        FROM_1_20,
        f"{NETKIT} require BPF masquerade (--enable-bpf-masquerade=true)",
    ),
    (
        {"datapath_mode": "netkit", "kube_proxy_replacement": False},
        FROM_1_20,
        f"{NETKIT} require --kube-proxy-replacement",
    ),
    (
        {"datapath_mode": "netkit", "enable_host_legacy_routing": True},
        FROM_1_20,
        f"{NETKIT} cannot be used with --enable-host-legacy-routing=true",
    ),
    ({**NATIVE, **IPIP}, (V16, V17), f"{KPR}DSR dispatch mode ipip {UNDER_XDP}"),
    ({**NATIVE, **IPIP}, (V18,), f'{KPR}DSR dispatch mode "ipip" {UNDER_XDP}'),
    (
        {"bpf_lb_acceleration": "best-effort", "underlay_protocol": "ipv6", "enable_ipv6": True},
        [version for version in VERSIONS if version.has("underlay-protocol")],
        f"{KPR}XDP acceleration cannot be used with an IPv6 underlay",
    ),
    (
        {"auto_direct_node_routes": True},
        BEFORE_1_20,
        "auto-direct-node-routes cannot be used with tunneling. Packets must be routed through the tunnel device.",
    ),
    ({"auto_direct_node_routes": True}, FROM_1_20, "auto-direct-node-routes requires native or hybrid routing mode."),
    (
        {"direct_routing_skip_unreachable": True},
        VERSIONS,
        SKIP_UNREACHABLE,
    ),
    ({"routing": "native"}, VERSIONS, NATIVE_CIDR.format(4)),
    ({**NATIVE, "enable_ipv6": True, "enable_ipv6_masquerade": True}, VERSIONS, NATIVE_CIDR.format(6)),
    (
        {"enable_ipv4_masquerade": False},
        VERSIONS,
        'BPF masquerade requires (--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")',
    ),
    # IPv6 is off: so is its masquerading.
    (
        {"enable_ipv4_masquerade": False, "enable_ipv6_masquerade": True},
        VERSIONS,
        'BPF masquerade requires (--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")',
    ),
    (
        {"kube_proxy_replacement": False},
        UP_TO_1_18,
        'unable to initialize BPF masquerade support: BPF masquerade requires NodePort (--enable-node-port="true")',
    ),
    ({"egress_masquerade_interfaces": "eth+"}, VERSIONS, BPF_DEVICES),
    ({"enable_masquerade_to_route_source": True}, VERSIONS, ROUTE_SOURCE),
    ({"enable_masquerade_to_route_source": True, "egress_masquerade_interfaces": "eth+"}, VERSIONS, BPF_DEVICES),
    ({"enable_ip_masq_agent": True, "enable_bpf_masquerade": False}, VERSIONS, IP_MASQ),
    ({"enable_ip_masq_agent": True, "enable_ipv4_masquerade": False}, VERSIONS, IP_MASQ),
    ({"ipam": "eni"}, VERSIONS, "Cannot specify IPAM mode eni in tunnel mode."),
    ({**NATIVE, "ipam": "eni", "enable_ipv6": True}, BEFORE_1_20, "IPv6 cannot be enabled in ENI IPAM mode"),
    ({"ipam": "multi-pool"}, (V16, V17), "Cannot specify IPAM mode multi-pool in tunnel mode."),
    (
        {**NATIVE, "ipam": "multi-pool", "enable_ipsec": True},
        (V16, V17),
        "Cannot specify IPAM mode multi-pool with enable-ipsec.",
    ),
    (
        {**NATIVE, "ipam": "multi-pool", "enable_ipsec": True},
        (V18,),
        "IPAM mode multi-pool with enable-ipsec is supported only in tunnel mode.",
    ),
    (
        {**NATIVE, "ipam": "delegated-plugin"},
        VERSIONS,
        "--local-router-ipv4 must be provided when IPv4 is enabled with --ipam=delegated-plugin",
    ),
    (
        {
            **NATIVE,
            "ipam": "delegated-plugin",
            "local_router_ipv4": "10.9.9.9",
            "enable_endpoint_routes": True,
            "enable_endpoint_health_checking": True,
        },
        VERSIONS,
        "--enable-endpoint-health-checking must be disabled with --ipam=delegated-plugin",
    ),
    (
        {"local_router_ipv4": "10.9.9.9"},
        BEFORE_1_20,
        "Cannot specify local-router-ipv4 or local-router-ipv6 in tunnel mode.",
    ),
    (
        {"local_router_ipv4": "10.9.9.9"},
        FROM_1_20,
        "local-router-ipv4 and local-router-ipv6 require native or hybrid routing mode.",
    ),
    (
        {**NATIVE, "local_router_ipv4": "10.9.9.9"},
        VERSIONS,
        "Cannot specify local-router-ipv4 or local-router-ipv6  without enable-endpoint-routes.",
    ),
    (
        {**NATIVE, "local_router_ipv4": "10.9.9.9", "enable_endpoint_routes": True, "enable_ipsec": True},
        VERSIONS,
        "Cannot specify local-router-ipv4 or local-router-ipv6 with enable-ipsec.",
    ),
    (
        {"enable_wireguard": True, "enable_ipsec": True},
        VERSIONS,
        "WireGuard (--enable-wireguard) cannot be used with IPsec (--enable-ipsec)",
    ),
    ({"enable_host_firewall": True, "enable_ipsec": True}, VERSIONS, "IPSec cannot be used with the host firewall."),
    ({"enable_ipsec": True, "enable_l7_proxy": True}, VERSIONS, DNS),
    (
        {"enable_ipsec": True, "enable_ipv4": False, "enable_ipv6": True, "enable_ipv4_masquerade": False},
        (V16, V17),
        'IPSec requires IPv4 addressing to be enabled (--enable-ipv4="true")',
    ),
    (
        {"enable_l7_proxy": True, "install_iptables_rules": False},
        BEFORE_1_20,
        'L7 proxy requires iptables rules (--install-iptables-rules="true")',
    ),
    (
        {"enable_l7_proxy": True, "install_iptables_rules": False},
        FROM_1_20,
        'L7 proxy requires iptables rules (--install-iptables-rules="true") or BPF TProxy (--enable-bpf-tproxy="true")',
    ),
    (
        {"install_iptables_rules": False},
        FROM_1_20,
        IPTABLES,
    ),
    (
        {"enable_remote_node_masquerade": True, "enable_bpf_masquerade": False},
        FROM_1_19,
        "Option enable-remote-node-masquerade requires BPF masquerade to be enabled (enable-bpf-masquerade)",
    ),
    (
        {"install_no_conntrack_iptables_rules": True},
        VERSIONS,
        "install-no-conntrack-iptables-rules requires the agent to run in direct routing mode.",
    ),
    (
        {**NATIVE, "install_no_conntrack_iptables_rules": True, "kube_proxy_replacement": False},
        UP_TO_1_18,
        f"{KPR}install-no-conntrack-iptables-rules requires the agent to run with kube-proxy-replacement=true.",
    ),
    (
        {**NATIVE, "install_no_conntrack_iptables_rules": True, "kube_proxy_replacement": False},
        FROM_1_19,
        f"{KPR}install-no-conntrack-iptables-rules requires the agent to run with kube-proxy-replacement.",
    ),
    (
        {**NATIVE, "install_no_conntrack_iptables_rules": True, "enable_bpf_masquerade": False},
        VERSIONS,
        f"{KPR}install-no-conntrack-iptables-rules requires the agent to run with enable-bpf-masquerade.",
    ),
    (
        {"kube_proxy_replacement": "strict"},
        (V16, V17),
        f"{KPR}Invalid value for --kube-proxy-replacement: strict",
    ),
    ({"kube_proxy_replacement": "strict"}, (V18,), "invalid value for kube-proxy-replacement"),
    (
        {"kube_proxy_replacement": "partial"},
        FROM_1_19,
        (
            "Incorrect config-map flag value: option kube-proxy-replacement: strconv.ParseBool: "
            'parsing "partial": invalid syntax'
        ),
    ),
    ({"bpf_lb_mode": "dsr"}, VERSIONS, f'{KPR}Node Port "dsr" mode cannot be used with vxlan tunneling.'),
    ({"bpf_lb_mode": "hybrid"}, VERSIONS, f'{KPR}Node Port "hybrid" mode cannot be used with vxlan tunneling.'),
    (
        {"bpf_lb_mode": "dsr", "tunnel": "geneve"},
        VERSIONS,
        f'{KPR}Tunnel routing with Node Port "dsr" mode requires geneve dispatch.',
    ),
    (
        {**NATIVE, "bpf_lb_mode": "dsr", "bpf_lb_dsr_dispatch": "geneve"},
        (V16, V17),
        f'{KPR}Node Port "dsr" mode with geneve dispatch requires geneve tunnel protocol.',
    ),
    (
        {**NATIVE, "bpf_lb_mode": "dsr", "bpf_lb_dsr_dispatch": "geneve"},
        VERSIONS[2:],
        f'{KPR}Node Port "dsr" mode with "geneve" dispatch requires geneve tunnel protocol.',
    ),
    (
        {"enable_egress_gateway": True, "identity_allocation_mode": "kvstore"},
        VERSIONS[2:],
        "egress gateway is not supported in kvstore identity allocation mode",
    ),
    (
        {"enable_ipv4_egress_gateway": True, "identity_allocation_mode": "kvstore"},
        (V16,),
        "egress gateway is not supported in KV store identity allocation mode",
    ),
    (
        {"enable_ipv4_egress_gateway": True, "identity_allocation_mode": "kvstore"},
        (V17, V18),
        "egress gateway is not supported in kvstore identity allocation mode",
    ),
    (
        {"enable_egress_gateway": True, "enable_bpf_masquerade": False},
        VERSIONS[2:],
        'egress gateway requires --enable-ipv4-masquerade="true" and --enable-bpf-masquerade="true"',
    ),
    (
        {"enable_ipv4_egress_gateway": True, "enable_cilium_endpoint_slice": True},
        UP_TO_1_18,
        "egress gateway is not supported in combination with the CiliumEndpointSlice feature",
    ),
    (
        {"enable_egress_gateway": True, "underlay_protocol": "ipv6", "enable_ipv6": True},
        FROM_1_19,
        "egress gateway requires an IPv4 underlay",
    ),
    (
        {"ipam": "multi-pool", "enable_bpf_masquerade": False},
        FROM_1_19,
        (
            "panic: Egress masquerading interfaces cannot be empty when IP masquerading is enabled with IPAM mode "
            "other than ClusterPool or Kubernetes"
        ),
    ),
]


def last_words(settings: NodeView, version: Version, drd: DirectRouting | None = None) -> str | None:
    found = refused(settings, version, drd)
    return None if found is None else found.words


@pytest.mark.parametrize(("told", "versions", "words"), CASES)
def test_what_agents_refuse(told: dict[str, Friendly], versions: Sequence[Version], words: str) -> None:
    settings = view(**told)
    assert [version for version in VERSIONS if last_words(settings, version) == words] == list(versions)


@pytest.mark.parametrize(
    ("told", "versions"),
    [
        ({}, VERSIONS),
        (NATIVE, VERSIONS),
        ({**NATIVE, "auto_direct_node_routes": True, "direct_routing_skip_unreachable": True}, VERSIONS),
        ({"routing": "native", "enable_ipv4_masquerade": False, "enable_bpf_masquerade": False}, VERSIONS),
        ({**NATIVE, "ipam": "eni"}, VERSIONS),
        ({"routing": "native", "ipam": "eni"}, VERSIONS),
        ({**NATIVE, "ipam": "eni", "enable_ipv6": True}, FROM_1_20),
        ({"ipam": "multi-pool"}, VERSIONS[2:]),
        ({"ipam": "multi-pool", "enable_bpf_masquerade": False}, UP_TO_1_18[2:]),
        ({"ipam": "multi-pool", "enable_bpf_masquerade": False, "egress_masquerade_interfaces": "eth+"}, VERSIONS[2:]),
        ({"routing": "native", "enable_ip_masq_agent": True}, VERSIONS),
        ({"kube_proxy_replacement": False}, FROM_1_19),
        ({"kube_proxy_replacement": False, "enable_bpf_masquerade": False}, VERSIONS),
        ({"egress_masquerade_interfaces": "eth+", "enable_bpf_masquerade": False}, VERSIONS),
        ({"enable_masquerade_to_route_source": True, "enable_bpf_masquerade": False}, VERSIONS),
        ({**NATIVE, "bpf_lb_mode": "dsr"}, VERSIONS),
        ({"bpf_lb_mode": "dsr", "tunnel": "geneve", "bpf_lb_dsr_dispatch": "geneve"}, VERSIONS),
        ({"install_iptables_rules": False}, (*UP_TO_1_18, V19)),
        ({"enable_egress_gateway": True}, VERSIONS),
        ({"datapath_mode": "netkit"}, VERSIONS),
        ({"datapath_mode": "auto", "enable_bpf_tproxy": True}, VERSIONS),
        ({**NATIVE, **IPIP, "bpf_lb_acceleration": "native"}, VERSIONS),
        ({"enable_ipsec": True}, VERSIONS),
        ({"enable_wireguard": True}, VERSIONS),
    ],
)
def test_what_agents_do_not_refuse(told: dict[str, Friendly], versions: Sequence[Version]) -> None:
    settings = view(**told)
    assert [version for version in VERSIONS if last_words(settings, version) is None] == list(versions)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_which_word_is_first_without_a_direct_routing_device(version: Version) -> None:
    """Flags that contradict each other come first; up to 1.18 masquerading is only looked at with a device."""
    drd = DirectRouting(None, "", NO_DIRECT_ROUTING_DEVICE)
    flags = view(auto_direct_node_routes=True)
    assert last_words(flags, version, drd) == last_words(flags, version)
    masquerading = view(egress_masquerade_interfaces="eth+")
    assert last_words(masquerading, version, drd) == (NO_DIRECT_ROUTING_DEVICE if version < V19 else BPF_DEVICES)
    assert last_words(view(), version, drd) == NO_DIRECT_ROUTING_DEVICE
    assert last_words(view(), version, DirectRouting("eth0", "")) is None


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_every_refusal_says_where_cilium_has_it(version: Version) -> None:
    for told, versions, words in CASES:
        found = refused(view(**told), version)
        if version in versions:
            assert found is not None, words
            assert found.source.partition(".go ")[0].startswith(("pkg/", "daemon/"))
    assert refused(view(), V20, DirectRouting(None, "", NO_DIRECT_ROUTING_DEVICE)) is not None


_FLAGS = sorted({key for told, _, _ in CASES for key, value in told.items() if isinstance(value, bool)})


@given(st.sampled_from(VERSIONS), st.dictionaries(st.sampled_from(_FLAGS), st.booleans()), st.booleans())
def test_whatever_is_told_there_is_an_answer(version: Version, told: dict[str, bool], native: bool) -> None:
    given: dict[str, Friendly] = {**(NATIVE if native else {}), **told}
    words = last_words(view(**given), version)
    assert words is None or words == words.strip()


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize(
    ("kind", "refuses"),
    [("device", False), ("veth", False), ("bond", False), ("vlan", True), ("dummy", True), ("macvlan", True)],
)
def test_native_acceleration_needs_devices_that_have_it(version: Version, kind: str, refuses: bool) -> None:
    devices = [Link("eth0", 2, "device"), Link("net1", 3, kind), Link("cilium_wg0", 4, "wireguard")]
    drd = DirectRouting("eth0", "")
    found = refused(view(bpf_lb_acceleration="native"), version, drd, devices)
    words = "attaching XDP program to interface net1: operation not supported"
    assert (found.words if found else None) == (words if refuses else None)
    for other in ("disabled", "best-effort", "testing-only"):
        assert refused(view(bpf_lb_acceleration=other), version, drd, devices) is None
