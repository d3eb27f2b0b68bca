"""The netns substrate: where namespaces are made, what is refused, and in whose words."""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from niclab.errors import LabError
from niclab.host import syscalls
from niclab.host.ledgers import Ledger
from niclab.host.namespace import NAMED
from niclab.host.netns import NetnsSubstrate
from niclab.host.process import environment, run
from niclab.host.userns import is_able, unshare_command
from niclab.lab import Lab
from niclab.net.operation import (
    AddAddress,
    AddCable,
    AddLink,
    AddNamespace,
    AddRoute,
    SetLink,
    SetPacketRules,
    SetSysctl,
)
from niclab.net.packetrules import Accept, Devices, Match, PacketRule
from niclab.net.route import Why, parse_route

from tests.support import arena
from tests.support.busy import PATIENCE

pytestmark = pytest.mark.skipif(not is_able(), reason="needs root: makes network namespaces")


@pytest.fixture
def substrate() -> Iterator[NetnsSubstrate]:
    ledger = Ledger.open_new()
    try:
        made = NetnsSubstrate(ledger)
        try:
            yield made
        finally:
            made.close()
    finally:
        ledger.release()


def here() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def cable(number: int = 0) -> AddCable:
    return AddCable("a", f"p{number}", "02:00:00:00:00:01", "b", f"eth{number}", "02:00:00:00:00:02")


def read(substrate: NetnsSubstrate, role: str, key: str) -> str:
    with substrate[role].entered():
        return Path("/proc/sys", key).read_text().strip()


def test_the_thread_comes_home_whatever_happens(substrate: NetnsSubstrate) -> None:
    home = here()
    substrate.apply([AddNamespace("a"), SetSysctl("a", "net.ipv4.ip_forward", "1")])
    assert here() == home
    with pytest.raises(LabError):
        substrate.apply([AddNamespace("b"), SetSysctl("a", "net.ipv4.no_such", "1")])
    assert here() == home
    with pytest.raises(ZeroDivisionError), substrate["a"].entered():
        assert here() != home
        raise ZeroDivisionError
    assert here() == home


def test_sysctls_are_set_before_links_inherit_them(substrate: NetnsSubstrate) -> None:
    wanted = {"net.ipv4.conf.default.rp_filter": "2", "net.ipv4.ip_forward": "1"}
    substrate.apply([AddNamespace("a"), AddNamespace("b", wanted), cable()])
    assert read(substrate, "b", "net/ipv4/conf/eth0/rp_filter") == "2"
    assert read(substrate, "b", "net/ipv4/ip_forward") == "1"


def test_a_sysctl_of_an_interface_with_a_dot(substrate: NetnsSubstrate) -> None:
    plug = AddCable("a", "p.0", "02:00:00:00:00:01", "b", "eth0.5", "02:00:00:00:00:02")
    key = "net/ipv4/conf/eth0.5/rp_filter"
    substrate.apply([AddNamespace("a"), AddNamespace("b"), plug, SetSysctl("b", key, "2")])
    assert read(substrate, "b", key) == "2"


@pytest.mark.parametrize("key", ["kernel.hostname", "vm.swappiness", "net/../kernel/hostname", "fs/nr_open"])
def test_sysctls_of_the_machine_are_refused(substrate: NetnsSubstrate, key: str) -> None:
    with pytest.raises(LabError, match="is none of") as caught:
        substrate.apply([AddNamespace("a"), SetSysctl("a", key, "1")])
    assert "would change the host" in caught.value.why


def test_links_the_kernel_puts_into_new_namespaces_are_in_nobodys_way(substrate: NetnsSubstrate) -> None:
    """Where tunnel modules are loaded a namespace starts with tunl0, sit0 …, which have the lowest numbers."""
    substrate.apply([AddNamespace("a"), AddNamespace("b")])
    for role in ("a", "b"):
        run(["ip", "-n", substrate[role].name, "link", "add", "tunl0", "type", "veth", "peer", "name", "sit0"])
    substrate.apply([AddLink.bridge("a", "f0", "02:00:00:00:00:03"), cable(0), cable(1), SetLink("b", "eth1")])
    with substrate["b"].entered():
        assert {name for _, name in socket.if_nameindex()} == {"lo", "tunl0", "sit0", "eth0", "eth1"}
        assert socket.if_nametoindex("eth1") == substrate["b"].indices["eth1"]


def test_a_refusal_is_shown_as_a_line_to_paste(substrate: NetnsSubstrate) -> None:
    address = AddAddress("b", "eth0", ipaddress.ip_interface("10.0.0.1/24"))
    route = AddRoute("b", parse_route("default via 10.9.0.1 dev eth0"))
    with pytest.raises(LabError) as caught:
        substrate.apply([AddNamespace("a"), AddNamespace("b"), cable(), address, SetLink("b", "eth0"), route])
    name = substrate["b"].name
    assert caught.value.what == f"the kernel refused: ip -n {name} route add default via 10.9.0.1 dev eth0"
    assert caught.value.why == "Nexthop has invalid gateway"
    with pytest.raises(LabError, match="status 2"):
        run(caught.value.what.partition(": ")[2].split())


def test_an_unknown_interface_is_named(substrate: NetnsSubstrate) -> None:
    with pytest.raises(LabError, match="a has no interface 'eth7'") as caught:
        substrate.apply([AddNamespace("a"), SetLink("a", "eth7")])
    assert caught.value.why == "ip -n a link set eth7 up"


def test_nftables_words_come_with_the_namespace(substrate: NetnsSubstrate) -> None:
    nonsense = PacketRule("input", Match(iif=Devices(('nonsense" "',))), Accept(), Why("nonsense", "", ""))
    with pytest.raises(LabError) as caught:
        substrate.apply([AddNamespace("a"), SetPacketRules("a", (nonsense,))])
    assert caught.value.what == f"failed with status 1: ip netns exec {substrate['a'].name} nft -f -"
    assert "nonsense" in caught.value.why


def test_too_few_file_handles_is_an_error_that_says_so(substrate: NetnsSubstrate) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/proc", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 12, hard))
    try:
        with pytest.raises(LabError, match="cannot") as caught:
            substrate.apply([AddNamespace(f"n{number}") for number in range(50)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in caught.value.fix


def test_nothing_stays_open(substrate: NetnsSubstrate) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    substrate.apply([AddNamespace("a"), AddNamespace("b"), cable()])
    substrate.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_thousand_cables_on_one_bridge_is_what_a_kernel_bridge_takes(substrate: NetnsSubstrate) -> None:
    """Its ports are 1024 at most; the refusal names the first cable too many."""
    ports = [
        AddCable("a", f"p{n}", "02:00:00:00:00:01", "b", f"e{n}", "02:00:00:00:00:02", master="f0") for n in range(1025)
    ]
    with pytest.raises(LabError, match="link add p1023 ") as caught:
        substrate.apply([AddNamespace("a"), AddNamespace("b"), AddLink.bridge("a", "f0", "02:00:00:00:00:03"), *ports])
    assert caught.value.why == "Exchange full"


def test_the_name_is_one_ip_netns_knows(substrate: NetnsSubstrate) -> None:
    substrate.apply([AddNamespace("a")])
    name = substrate["a"].name
    assert run(["ip", "netns", "exec", name, "cat", "/proc/sys/net/ipv4/ip_forward"]).strip() in "01"
    with syscalls.entered(substrate["a"].fd):
        assert (NAMED / name).stat().st_ino == here()


def test_a_thousand_flows_fit_the_buffer_a_plain_user_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root a tap has net.core.rmem_max, 208 KiB by default, instead of 32 MiB: the kernel doubles both."""
    monkeypatch.setattr("niclab.wire.tap._BUFFER", 212992)

    def work() -> None:
        with Lab.deploy("two-nic") as lab:
            assert lab.taps.capacity == 2 * 212992
            results = lab.send_all([f"pod1 -> pod2:udp:{port}" for port in range(1000, 2000)])
        assert {(result.verdict, result.measurement.drops) for result in results} == {("carried", 0)}

    arena.in_arena(work)


def test_the_same_in_a_user_namespace() -> None:
    code = (
        "from niclab.lab import Lab; from niclab.host import ledgers, namespace\n"
        "with Lab.deploy('two-nic') as lab: print(*{r.verdict for r in lab.send_all(['pod1 -> pod2'] * 100)})\n"
        "print(ledgers.STATE.exists(), namespace.NAMED.exists())"
    )
    command = unshare_command([sys.executable, "-c", code])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment())
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"this kernel makes no user namespaces: {done.stderr.strip()}")
    assert done.stdout.split() == ["carried", "False", "False"], done.stderr
