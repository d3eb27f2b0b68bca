"""Settings that agents refuse, in the words their logs had (1.18.10 and 1.20.0-dev)."""

from __future__ import annotations

import pytest

from lab import LAB_BASELINE, Settings, Version
from lab.refusal import refusal

V18, V20 = Version(1, 18), Version(1, 20)
NATIVE_CIDR = (
    "native routing cidr must be configured with option --ipv4-native-routing-cidr in combination with "
    "--enable-ipv4=true --enable-ipv4-masquerade=true --enable-ip-masq-agent=false --routing-mode=native "
    "--ipam=cluster-pool"
)


@pytest.mark.parametrize(
    ("told", "version", "words"),
    [
        (Settings.of(enable_ipv4=False), V18, "Either IPv4 or IPv6 addressing must be enabled"),
        (
            Settings.of(auto_direct_node_routes=True),
            V18,
            "auto-direct-node-routes cannot be used with tunneling. Packets must be routed through the tunnel device.",
        ),
        (
            Settings.of(auto_direct_node_routes=True),
            V20,
            "auto-direct-node-routes requires native or hybrid routing mode.",
        ),
        (Settings.of(routing="native"), V18, NATIVE_CIDR),
        (Settings.of(routing="native"), V20, NATIVE_CIDR),
        (Settings.of(routing="native", ipv4_native_routing_cidr="10.244.0.0/16"), V20, None),
        (
            Settings.of(enable_ipv4_masquerade=False),
            V20,
            'BPF masquerade requires (--enable-ipv4-masquerade="true" or --enable-ipv6-masquerade="true")',
        ),
        (
            Settings.of(egress_masquerade_interfaces="eth+"),
            V18,
            (
                "unable to initialize BPF masquerade support: BPF masquerade does not allow to specify devices via "
                "--egress-masquerade-interfaces (use --devices instead)"
            ),
        ),
        (Settings.of(), V18, None),
        (Settings.of(), V20, None),
    ],
)
def test_what_agents_refuse(told: Settings, version: Version, words: str | None) -> None:
    assert refusal(LAB_BASELINE.merged(told).for_node("node1"), version) == words
