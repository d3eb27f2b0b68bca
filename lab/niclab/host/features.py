"""Is this machine able to run the lab? Every answer comes from trying, in a place that vanishes with the trial.

Kernel features are tried in an unnamed network namespace with an empty /run, by a child process that makes it
for itself: the host's is never touched, and nothing is left. A trial may load a kernel module, as the first lab would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from niclab.errors import LabError
from niclab.host import userns

BUILTIN = "the built-in datapath"
ROOTLESS = "running without root"
OPTIONAL_TOPOLOGY = "topologies and settings that use it"
CILIUM = "the cilium datapath"
BUNDLES = "fetching cilium bundles"
KIND = "the kind substrate"
BY_HAND = "looking around by hand"
PURPOSES = (BUILTIN, ROOTLESS, OPTIONAL_TOPOLOGY, CILIUM, BUNDLES, KIND, BY_HAND)
_APT = "apt-get install "
_TRIAL = Path(__file__).with_name("feature_trial.py")


@dataclass(frozen=True, slots=True)
class Feature:
    """`detail` is where it is, or why its trial failed; `install` is what to do to have it."""

    name: str
    needed_for: str
    present: bool
    detail: str
    install: str


def probe() -> tuple[Feature, ...]:
    return (*probe_kernel(), *probe_tools(), probe_docker())


def required_missing(features: Iterable[Feature], *, needed_for: str = BUILTIN) -> tuple[Feature, ...]:
    return tuple(feature for feature in features if feature.needed_for == needed_for and not feature.present)


def packages(features: Iterable[Feature]) -> tuple[str, ...]:
    """The Debian packages that hold these features, each once, in order."""
    wanted = (feature.install.removeprefix(_APT) for feature in features if feature.install.startswith(_APT))
    return tuple(dict.fromkeys(wanted))


# Of the kernel


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


def _trials(needed_for: str, *rows: tuple[str, ...]) -> list[Trial]:
    """Rows of name, kernel options and commands; a name with a `/` has the module that must be loaded already."""
    names = [row[0].partition("/") for row in rows]
    return [
        Trial(name, needed_for, row[1], row[2:], module) for (name, _, module), row in zip(names, rows, strict=True)
    ]


_NAT = "add table {0} t; add chain {0} t c {{ type nat hook postrouting priority 100; }}; add rule {0} t c masquerade"
_CABLE = ("ip link add p0 type veth peer name p1", "ip link set p1 up", "ip link set p0 up")
_TWO_WAYS = "ip route add 10.7.0.0/24 nexthop via 10.9.0.2 dev p0 nexthop via 10.9.0.3 dev p0"
_TUNNEL = "ip route add 10.8.0.0/24 encap ip id 5 dst 10.9.0.2 dev vx0"
_RULES = ("ip -4 rule add fwmark 5 table 77", "ip -6 rule add fwmark 5 table 77")
_IPVLAN = ("ip link add p2 type veth peer name p3", "ip link add iv0 link p2 type ipvlan mode l2")
# Words are split at blanks, except for nft, which takes its whole script as one word.
TRIALS = (
    *_trials(
        BUILTIN,
        ("named network namespaces", "NET_NS", "ip netns add probe", "ip netns delete probe"),
        ("veth", "VETH", *_CABLE, "ip address add 10.9.0.1/24 dev p0"),
        ("IPv6", "IPV6", "ip address add fd09::1/64 dev p0 nodad"),
        ("bridge", "BRIDGE", "ip link add br0 type bridge", "ip link set p1 master br0"),
        ("vxlan with metadata", "VXLAN", "ip link add vx0 type vxlan external dstport 4789", "ip link set vx0 up"),
        ("lightweight-tunnel routes", "LWTUNNEL", _TUNNEL),
        ("multipath routes", "IP_ROUTE_MULTIPATH", _TWO_WAYS),
        ("policy routing", "IP_MULTIPLE_TABLES, IPV6_MULTIPLE_TABLES", *_RULES),
        ("nftables NAT", "NFT_NAT, NFT_MASQ", f"nft {_NAT.format('ip')}"),
        ("nftables NAT for IPv6", "NFT_NAT, NFT_MASQ", f"nft {_NAT.format('ip6')}"),
        ("AF_PACKET", "PACKET", "builtin:af_packet"),
    ),
    *_trials(
        OPTIONAL_TOPOLOGY,
        ("geneve", "GENEVE", "ip link add gn0 type geneve external"),
        ("vlan", "VLAN_8021Q", "ip link add link p0 name p0.5 type vlan id 5"),
        ("bond/bonding", "BONDING", "ip link add bd0 type bond"),
        ("macvlan", "MACVLAN", "ip link add mv0 link p0 type macvlan mode bridge"),
        ("ipvlan", "IPVLAN", *_IPVLAN),
        ("vrf", "NET_VRF", "ip link add vrf0 type vrf table 10"),
        ("dummy/dummy", "DUMMY", "ip link add dm0 type dummy"),
        ("ifb/ifb", "IFB", "ip link add if0 type ifb"),
        ("wireguard", "WIREGUARD", "ip link add wg0 type wireguard"),
        ("netem", "NET_SCH_NETEM", "tc qdisc add dev p0 root netem delay 1ms"),
    ),
    *_trials(
        CILIUM,
        ("clsact", "NET_SCH_INGRESS", "tc qdisc add dev p0 clsact"),
        ("eBPF programs", "BPF_SYSCALL, NET_CLS_BPF", "builtin:ebpf"),
        ("tcx", "NET_XGRESS (Linux 6.6)", "builtin:tcx"),
        ("cgroup v2", "CGROUPS", "builtin:cgroup2"),
    ),
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
    needed_for = ROOTLESS if able else BUILTIN
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


# Programs


@dataclass(frozen=True, slots=True)
class Tool:
    """`names` are tried in order; `major`, when not 0, is the oldest version that will do.

    `feature` is what it is called where not as its first name, `directory` where to look besides PATH.
    """

    names: tuple[str, ...]
    needed_for: str
    package: str
    major: int = 0
    feature: str = ""
    directory: str = ""


TOOLS = (
    Tool(("ip",), BUILTIN, "iproute2"),
    Tool(("nft",), BUILTIN, "nftables"),
    Tool(("unshare",), BUILTIN, "util-linux"),
    Tool(("mount",), BUILTIN, "mount"),
    Tool(("nsenter",), ROOTLESS, "util-linux"),
    Tool(("clang-19", "clang"), CILIUM, "clang-19", major=19),
    Tool(("llc-19", "llc"), CILIUM, "llvm-19", major=19),
    Tool(("etcd",), CILIUM, "etcd-server"),
    Tool(("iptables",), CILIUM, "iptables"),
    Tool(("ipset",), CILIUM, "ipset"),
    Tool(("bgpd",), OPTIONAL_TOPOLOGY, "frr", feature="frr", directory="/usr/lib/frr"),
    Tool(("skopeo",), BUNDLES, "skopeo"),
    Tool(("umoci",), BUNDLES, "umoci"),
    Tool(("docker",), KIND, "docker.io"),
    Tool(("tcpdump",), BY_HAND, "tcpdump"),
    Tool(("tshark",), BY_HAND, "tshark"),
)


def probe_tools() -> tuple[Feature, ...]:
    return tuple(_find(tool) for tool in TOOLS)


def probe_docker() -> Feature:
    """A client on PATH is not enough: its daemon must answer us."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    install = "start docker, and be in its group: usermod -aG docker $USER"
    if not address.startswith("unix://"):
        return Feature("docker daemon", KIND, True, f"{address}, not tried", "")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(address.removeprefix("unix://"))
        except OSError as error:
            return Feature("docker daemon", KIND, False, f"{address}: {error.strerror or error}", install)
    return Feature("docker daemon", KIND, True, address, "")


def _find(tool: Tool) -> Feature:
    path = os.pathsep.join(filter(None, (userns.search_path(), tool.directory)))
    programs = [program for name in tool.names if (program := shutil.which(name, path=path))]
    name = tool.feature or tool.names[0]
    too_old = ""
    for program in programs:
        version = _major(program) if tool.major else None
        if version is None or version >= tool.major:
            return Feature(name, tool.needed_for, True, program, "")
        too_old = too_old or f"{program} is version {version}, too old"
    detail = too_old or f"not on PATH{f' nor in {tool.directory}' if tool.directory else ''}"
    return Feature(name, tool.needed_for, False, detail, f"apt-get install {tool.package}")


def _major(path: str) -> int | None:
    """LLVM's tools carry the version in their names when Debian packages them; asking them is slower."""
    if named := re.search(r"-(\d+)$", path):
        return int(named[1])
    try:
        reported = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"version (\d+)", reported)
    return int(version[1]) if version else None
