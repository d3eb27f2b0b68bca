"""Commands the lab can use, and the Debian packages they come in."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass

from niclab.host import userns
from niclab.host.features import feature as what_for
from niclab.host.features.feature import Feature


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
    Tool(("ip",), what_for.BUILTIN, "iproute2"),
    Tool(("nft",), what_for.BUILTIN, "nftables"),
    Tool(("unshare",), what_for.BUILTIN, "util-linux"),
    Tool(("mount",), what_for.BUILTIN, "mount"),
    Tool(("nsenter",), what_for.ROOTLESS, "util-linux"),
    Tool(("clang-19", "clang"), what_for.CILIUM, "clang-19", major=19),
    Tool(("llc-19", "llc"), what_for.CILIUM, "llvm-19", major=19),
    Tool(("etcd",), what_for.CILIUM, "etcd-server"),
    Tool(("iptables",), what_for.CILIUM, "iptables"),
    Tool(("ipset",), what_for.CILIUM, "ipset"),
    Tool(("bgpd",), what_for.OPTIONAL_TOPOLOGY, "frr", feature="frr", directory="/usr/lib/frr"),
    Tool(("skopeo",), what_for.BUNDLES, "skopeo"),
    Tool(("umoci",), what_for.BUNDLES, "umoci"),
    Tool(("docker",), what_for.KIND, "docker.io"),
    Tool(("tcpdump",), what_for.BY_HAND, "tcpdump"),
    Tool(("tshark",), what_for.BY_HAND, "tshark"),
)


def probe_tools() -> tuple[Feature, ...]:
    return tuple(_find(tool) for tool in TOOLS)


def probe_docker() -> Feature:
    """A client on PATH is not enough: its daemon must answer us."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    install = "start docker, and be in its group: usermod -aG docker $USER"
    if not address.startswith("unix://"):
        return Feature("docker daemon", what_for.KIND, True, f"{address}, not tried", "")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(address.removeprefix("unix://"))
        except OSError as error:
            return Feature("docker daemon", what_for.KIND, False, f"{address}: {error.strerror or error}", install)
    return Feature("docker daemon", what_for.KIND, True, address, "")


def _find(tool: Tool) -> Feature:
    path = os.pathsep.join(filter(None, (userns.search_path(), tool.directory)))
    found = [program for name in tool.names if (program := shutil.which(name, path=path))]
    called = tool.feature or tool.names[0]
    too_old = ""
    for program in found:
        version = _major(program) if tool.major else None
        if version is None or version >= tool.major:
            return Feature(called, tool.needed_for, True, program, "")
        too_old = too_old or f"{program} is version {version}, too old"
    detail = too_old or f"not on PATH{f' nor in {tool.directory}' if tool.directory else ''}"
    return Feature(called, tool.needed_for, False, detail, f"apt-get install {tool.package}")


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
