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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from niclab.errors import LabError
from niclab.host import syscalls, userns
from niclab.host.process import search_path

_PURPOSES = {
    "builtin": "the built-in datapath",
    "rootless": "running without root",
    "topologies": "topologies and settings that use it",
    "cilium": "the cilium datapath",
    "bundles": "fetching cilium bundles",
    "kind": "the kind substrate",
    "by-hand": "looking around by hand",
}
PURPOSES = tuple(_PURPOSES.values())
BUILTIN, ROOTLESS, KIND = (_PURPOSES[name] for name in ("builtin", "rootless", "kind"))
_APT = "apt-get install "


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


def _rows(name: str) -> Iterator[tuple[str, list[str]]]:
    """Purpose and other columns of each row of a table."""
    text = resources.files("niclab.host").joinpath("data", name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            purpose, *columns = line.split(" | ")
            yield _PURPOSES[purpose], columns


def _trials() -> Iterator[Trial]:
    for purpose, (whole, config, commands) in _rows("trials.txt"):
        name, _, module = whole.partition("/")
        yield Trial(name, purpose, config, tuple(commands.split(" && ")), module)


TRIALS = tuple(_trials())


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
    options = ", ".join(f"CONFIG_{option}" for option in trial.config.split(", "))
    install = "run it as root (sudo)" if "not permitted" in answer else f"a kernel with {options}"
    return Feature(trial.name, trial.needed_for, False, answer, install)


def _user_namespaces() -> Feature:
    name, able = "user namespaces", userns.is_able()
    if able:
        if (refusing := userns.refusing_sysctl()) is not None:
            key, value, wanted = refusing
            return Feature(name, ROOTLESS, False, f"{key} is {value}", f"sysctl -w {key}={wanted}")
        return Feature(name, ROOTLESS, True, "no sysctl forbids them", "")
    try:
        userns.check()
    except LabError as error:
        return Feature(name, BUILTIN, False, error.what, error.fix)
    return Feature(name, BUILTIN, True, "works", "")


def _try(trials: list[Trial]) -> dict[str, str]:
    request = json.dumps([[trial.name, [_words(command) for command in trial.commands]] for trial in trials])
    interpreter = [sys.executable, "-S", "-m", "niclab.host.features"]
    if missing := userns.missing_tool():
        return {trial.name: f"not tried: the command {missing} is missing" for trial in trials}
    try:
        child = subprocess.run(
            userns.unshare_command(interpreter, own_user=not userns.is_able()),
            input=request,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=os.environ | userns.environment("trial") | {"PYTHONPATH": os.pathsep.join(sys.path)},
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


def probe_tools() -> tuple[Feature, ...]:
    return tuple(_find(purpose, *columns) for purpose, columns in _rows("tools.txt"))


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


def _find(needed_for: str, words: str, package: str, feature: str = "", directory: str = "") -> Feature:
    path = os.pathsep.join(filter(None, (search_path(), directory)))
    names = words.split()
    oldest = int(names.pop()) if names[-1].isdigit() else 0
    programs = [program for name in names if (program := shutil.which(name, path=path))]
    name = feature or names[0]
    too_old = ""
    for program in programs:
        version = _major(program) if oldest else None
        if version is None or version >= oldest:
            return Feature(name, needed_for, True, program, "")
        too_old = too_old or f"{program} is version {version}, too old"
    detail = too_old or f"not on PATH{f' nor in {directory}' if directory else ''}"
    return Feature(name, needed_for, False, detail, f"{_APT}{package}")


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


# The child

_BPF_PROG_TYPE_SCHED_CLS, _BPF_TCX_INGRESS = 3, 46
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")
_ETH_P_ALL = 3


def _try_ebpf() -> None:
    os.close(syscalls.bpf_load(_BPF_PROG_TYPE_SCHED_CLS, _RETURN_0))


def _try_tcx() -> None:
    program = syscalls.bpf_load(_BPF_PROG_TYPE_SCHED_CLS, _RETURN_0)
    try:
        os.close(syscalls.bpf_link(program, socket.if_nametoindex("p0"), _BPF_TCX_INGRESS))
    finally:
        os.close(program)


def _try_af_packet() -> None:
    """A frame of our own must be seen at the other end of the cable."""
    protocol = socket.htons(_ETH_P_ALL)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol) as tap,
    ):
        sender.bind(("p0", _ETH_P_ALL))
        tap.bind(("p1", _ETH_P_ALL))
        tap.settimeout(1)
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + b"niclab probe".ljust(50, b".")
        sender.send(frame)
        while frame not in tap.recv(2048):  # the kernel's own neighbour discovery may come first
            pass


def _try_cgroup2() -> None:
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        raise OSError(0, "cgroup2 is not in /proc/filesystems")


_BUILTIN: dict[str, Callable[[], None]] = {
    "builtin:af_packet": _try_af_packet,
    "builtin:cgroup2": _try_cgroup2,
    "builtin:ebpf": _try_ebpf,
    "builtin:tcx": _try_tcx,
}


def _failure(words: list[str]) -> str:
    """Why the command fails, or nothing when it does not."""
    try:
        if words[0] in _BUILTIN:
            _BUILTIN[words[0]]()
            return ""
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15, check=False)
    except FileNotFoundError:
        return f"not tried: the command {words[0]} is missing"
    except subprocess.TimeoutExpired:
        return f"{' '.join(words)}: no answer within 15 s"
    except OSError as error:
        return str(error.strerror or error)
    if done.returncode == 0:
        return ""
    reported = done.stderr.strip().splitlines()
    return reported[0].removeprefix("Error: ") if reported else f"{words[0]} exited with {done.returncode}"


def main() -> None:
    """The child: tries what standard input asks for, in the namespaces it was started in."""
    answers = {
        name: next((why for why in map(_failure, commands) if why), "") for name, commands in json.load(sys.stdin)
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
