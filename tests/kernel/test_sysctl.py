"""The sysctls of a network namespace: those that exist are known, and others are refused with the nearest one."""

from __future__ import annotations

import os
import subprocess

import pytest
from niclab.kernel.sysctl import refusal

from tests.support.kernel import privileged

NICS = ("eth0", "eth0.5")


@pytest.mark.parametrize(
    "key",
    [
        "net.ipv4.ip_forward",
        "net/ipv4/fib_multipath_hash_policy",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.eth0.rp_filter",
        "net.ipv4.conf.eth0.5.rp_filter",
        "net/ipv6/conf/eth0.5/accept_ra",
        "net.ipv6.conf.lo.disable_ipv6",
        "net.ipv4.neigh.eth0.base_reachable_time_ms",
        "net.netfilter.nf_conntrack_tcp_be_liberal",
        "net.vrf.strict_mode",
    ],
)
def test_a_key_that_exists(key: str) -> None:
    assert refusal(key, NICS) is None


@pytest.mark.parametrize(
    ("key", "why", "fix"),
    [
        ("kernel.panic", "does not belong to a network namespace", "only net.* keys"),
        ("net/../kernel/panic", "does not belong to a network namespace", "only net.* keys"),
        ("net", "does not belong to a network namespace", "only net.* keys"),
        ("net.ipv4.conf.eth0.rp_filtr", "no network namespace has", "did you mean net.ipv4.conf.eth0.rp_filter?"),
        ("net/ipv6/conf/eth0.5/accept_rr", "no network namespace has", "did you mean net/ipv6/conf/eth0.5/accept_ra?"),
        ("net.ipv4.conf.rp_filter", "no network namespace has", "did you mean net.ipv4.conf.NIC.rp_filter?"),
        ("net.ipv4.ip_forwrd", "no network namespace has", "did you mean net.ipv4.ip_forward?"),
        ("net.flux", "no network namespace has", "see /proc/sys/net"),
        ("net.core.netdev_budget", "no network namespace has", "see /proc/sys/net"),
        ("net.ipv4.conf.eth1.rp_filter", "there is no NIC 'eth1' here", "did you mean 'eth0'?"),
        ("net.ipv4.neigh.default.locktime", "there is no NIC 'default' here", "use one of"),
    ],
)
def test_a_key_that_does_not(key: str, why: str, fix: str) -> None:
    reason, advice = refusal(key, NICS) or ("", "")
    assert why in reason
    assert fix in advice


def test_without_interfaces_any_may_be_named() -> None:
    assert refusal("net.ipv4.conf.lxc1.rp_filter") is None
    assert refusal("net.ipv4.conf.lxc1.rp_filtr") is not None


@privileged
@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) > (6, 18), reason="a newer kernel has more keys"
)
def test_every_ip_key_of_this_kernel_is_known() -> None:
    find = ["unshare", "--net", "sh", "-c", "cd /proc/sys && find net/ipv4 net/ipv6 -type f"]
    keys = subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()
    assert len(keys) > 100
    assert [key for key in keys if refusal(key)] == []
