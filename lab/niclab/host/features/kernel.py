"""Kernel features, each really tried in an unnamed network namespace with an empty /run.

The trials run in one child, which makes the namespace for itself: the host's is never touched, and nothing is left.
A trial may load a kernel module, as the first lab would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from niclab.errors import LabError
from niclab.host import userns
from niclab.host.features import feature as what_for
from niclab.host.features.feature import Feature

_TRIAL = Path(__file__).with_name("trial.py")


@dataclass(frozen=True, slots=True)
class Trial:
    """`commands` must all succeed; they find p0 with 10.9.0.1/24 and fd09::1/64, cabled to p1, both up.

    Loading `module` makes devices (dummy0, bond0, ifb0 …) in the *host's* namespace: trying must not do that.
    """

    name: str
    needed_for: str
    config: str
    commands: tuple[str, ...]
    module: str = ""


_NAT = "add table {0} t; add chain {0} t c {{ type nat hook postrouting priority 100; }}; add rule {0} t c masquerade"

# Words are split at blanks, except for nft, which takes its whole script as one word.
TRIALS = (
    Trial("named network namespaces", what_for.BUILTIN, "NET_NS", ("ip netns add probe", "ip netns delete probe")),
    Trial(
        "veth",
        what_for.BUILTIN,
        "VETH",
        (
            "ip link add p0 type veth peer name p1",
            "ip link set p1 up",
            "ip link set p0 up",
            "ip address add 10.9.0.1/24 dev p0",
        ),
    ),
    Trial("IPv6", what_for.BUILTIN, "IPV6", ("ip address add fd09::1/64 dev p0 nodad",)),
    Trial("bridge", what_for.BUILTIN, "BRIDGE", ("ip link add br0 type bridge", "ip link set p1 master br0")),
    Trial(
        "vxlan with metadata",
        what_for.BUILTIN,
        "VXLAN",
        ("ip link add vx0 type vxlan external dstport 4789", "ip link set vx0 up"),
    ),
    Trial(
        "lightweight-tunnel routes",
        what_for.BUILTIN,
        "LWTUNNEL",
        ("ip route add 10.8.0.0/24 encap ip id 5 dst 10.9.0.2 dev vx0",),
    ),
    Trial(
        "multipath routes",
        what_for.BUILTIN,
        "IP_ROUTE_MULTIPATH",
        ("ip route add 10.7.0.0/24 nexthop via 10.9.0.2 dev p0 nexthop via 10.9.0.3 dev p0",),
    ),
    Trial(
        "policy routing",
        what_for.BUILTIN,
        "IP_MULTIPLE_TABLES, IPV6_MULTIPLE_TABLES",
        ("ip -4 rule add fwmark 5 table 77", "ip -6 rule add fwmark 5 table 77"),
    ),
    Trial("nftables NAT", what_for.BUILTIN, "NFT_NAT, NFT_MASQ", (f"nft {_NAT.format('ip')}",)),
    Trial("nftables NAT for IPv6", what_for.BUILTIN, "NFT_NAT, NFT_MASQ", (f"nft {_NAT.format('ip6')}",)),
    Trial("AF_PACKET", what_for.BUILTIN, "PACKET", ("builtin:af_packet",)),
    Trial("geneve", what_for.OPTIONAL_TOPOLOGY, "GENEVE", ("ip link add gn0 type geneve external",)),
    Trial("vlan", what_for.OPTIONAL_TOPOLOGY, "VLAN_8021Q", ("ip link add link p0 name p0.5 type vlan id 5",)),
    Trial("bond", what_for.OPTIONAL_TOPOLOGY, "BONDING", ("ip link add bd0 type bond",), "bonding"),
    Trial("macvlan", what_for.OPTIONAL_TOPOLOGY, "MACVLAN", ("ip link add mv0 link p0 type macvlan mode bridge",)),
    Trial(
        "ipvlan",
        what_for.OPTIONAL_TOPOLOGY,
        "IPVLAN",
        ("ip link add p2 type veth peer name p3", "ip link add iv0 link p2 type ipvlan mode l2"),
    ),
    Trial("vrf", what_for.OPTIONAL_TOPOLOGY, "NET_VRF", ("ip link add vrf0 type vrf table 10",)),
    Trial("dummy", what_for.OPTIONAL_TOPOLOGY, "DUMMY", ("ip link add dm0 type dummy",), "dummy"),
    Trial("ifb", what_for.OPTIONAL_TOPOLOGY, "IFB", ("ip link add if0 type ifb",), "ifb"),
    Trial("wireguard", what_for.OPTIONAL_TOPOLOGY, "WIREGUARD", ("ip link add wg0 type wireguard",)),
    Trial("netem", what_for.OPTIONAL_TOPOLOGY, "NET_SCH_NETEM", ("tc qdisc add dev p0 root netem delay 1ms",)),
    Trial("clsact", what_for.CILIUM, "NET_SCH_INGRESS", ("tc qdisc add dev p0 clsact",)),
    Trial("eBPF programs", what_for.CILIUM, "BPF_SYSCALL, NET_CLS_BPF", ("builtin:ebpf",)),
    Trial("tcx", what_for.CILIUM, "NET_XGRESS (Linux 6.6)", ("builtin:tcx",)),
    Trial("cgroup v2", what_for.CILIUM, "CGROUPS", ("builtin:cgroup2",)),
)


def probe_kernel() -> tuple[Feature, ...]:
    users = _user_namespaces()
    if not userns.is_able() and not users.present:
        return (users, *(_feature(trial, f"not tried: {users.detail}") for trial in TRIALS))
    hidden = {trial.name for trial in TRIALS if trial.module and _only_loadable(trial.module)}
    answers = _try([trial for trial in TRIALS if trial.name not in hidden])
    return (
        users,
        *(
            Feature(trial.name, trial.needed_for, True, "a module, not loaded now; not tried, as that shows", "")
            if trial.name in hidden
            else _feature(trial, answers.get(trial.name, "not tried"))
            for trial in TRIALS
        ),
    )


def _feature(trial: Trial, answer: str) -> Feature:
    """The child answers with the empty string when all went well."""
    if not answer:
        return Feature(trial.name, trial.needed_for, True, "works", "")
    if "not permitted" in answer:
        return Feature(trial.name, trial.needed_for, False, answer, "run it as root (sudo)")
    return Feature(trial.name, trial.needed_for, False, answer, f"a kernel with {_options(trial.config)}")


def _options(config: str) -> str:
    return ", ".join(f"CONFIG_{option}" for option in config.split(", "))


def _user_namespaces() -> Feature:
    able = userns.is_able()
    needed_for = what_for.ROOTLESS if able else what_for.BUILTIN
    if able:
        refusing = userns.refusing_sysctl()
        if refusing is None:
            return Feature("user namespaces", needed_for, True, "no sysctl forbids them", "")
        name, value, wanted = refusing
        return Feature("user namespaces", needed_for, False, f"{name} is {value}", f"sysctl -w {name}={wanted}")
    try:
        userns.check()
    except LabError as error:
        return Feature("user namespaces", needed_for, False, error.what, error.fix)
    return Feature("user namespaces", needed_for, True, "works", "")


def _try(trials: list[Trial]) -> dict[str, str]:
    request = json.dumps([[trial.name, [_words(command) for command in trial.commands]] for trial in trials])
    interpreter = [sys.executable, "-I", "-S", str(_TRIAL)]
    missing = next(
        (tool for tool in ("unshare", "mount", "ip") if not shutil.which(tool, path=userns.search_path())), ""
    )
    if missing:
        return {trial.name: f"not tried: the command {missing} is missing" for trial in trials}
    try:
        child = subprocess.run(
            userns.unshare_command(interpreter, own_user=not userns.is_able()),
            input=request,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=os.environ | userns.environment("trial"),
        )
    except subprocess.TimeoutExpired:
        return {trial.name: "not tried: the trial hung" for trial in trials}
    except subprocess.CalledProcessError as error:
        reported = str(error.stderr).strip().splitlines() or ["no reason given"]
        return {trial.name: f"not tried: {reported[-1]}" for trial in trials}
    answers: dict[str, str] = json.loads(child.stdout)
    return answers


def _words(command: str) -> list[str]:
    tool, _, rest = command.partition(" ")
    return [tool, rest] if tool == "nft" else command.split()


def _only_loadable(module: str) -> bool:
    """Whether using it would load it: the kernel has it as a module, and not in memory yet."""
    if Path("/sys/module", module).exists():
        return False
    try:
        known = Path("/lib/modules", os.uname().release, "modules.dep").read_text()
    except OSError:
        return False
    return f"/{module}.ko" in known
