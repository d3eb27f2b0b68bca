"""Everything a person without root does: `niclab` and pytest, really run as another user."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import standin
from tests.support.unprivileged import BECOME, NOBODY, PYTEST, User, unprivileged

DISTRIBUTIONS = (
    *("niclab", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"),
    *("PyYAML", "pyroute2", "scapy", "tenacity", "rich"),
    *(*PYTEST, "pytest-xdist", "execnet"),
)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with unprivileged(*DISTRIBUTIONS) as user:
        tried = user.run("-c", "import pydantic_core, scapy")
        if tried.returncode:
            pytest.skip(f"no Python that other users may run has this one's packages: {tried.stderr.splitlines()[-1]}")
        yield user


@pytest.fixture(autouse=True)
def no_user_namespace_is_left(user: User) -> Iterator[None]:
    yield
    user.clean()


def niclab(user: User, *arguments: str) -> subprocess.CompletedProcess[str]:
    return user.run("-m", "niclab.cli", *arguments)


def has_holder(user: User) -> bool:
    return user.code("print(find_holder() is not None)").stdout == "True\n"


def test_trace(user: User) -> None:
    done = niclab(user, "trace", "two-nic", "--flow", "pod1 -> ext1", "--pcap", "mine.pcapng")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pod1→ext1  eth1 snat  carried, 5 of 5 answered" in done.stdout
    assert (user.home / "work" / "mine.pcapng").stat().st_uid == NOBODY
    assert not has_holder(user)


def test_the_version_of_a_bundle_that_cannot_run_is_modelled_and_it_is_said(user: User) -> None:
    bundle = standin.make(user.home / "work" / "cilium-1.18", "1.18.10", user.python)
    subprocess.run(["chmod", "-R", "a+rX", str(bundle)], check=True)
    done = user.run(
        "-c",
        "import os, sys; os.environ['NICLAB_CILIUM'] = os.path.abspath('cilium-1.18')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'niclab.cli', 'trace', 'two-nic', '--flow', 'pod1 -> ext1'])",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("two-nic · tunnel (vxlan) · built-in model of Cilium 1.18\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "warning: this is the built-in model of Cilium 1.18, not real agents: the bundle cilium-1.18 "
    )
    assert "root" in line


@pytest.mark.parametrize("verb", ["trace", "up"])
def test_real_agents_are_refused_before_anything_is_made(user: User, verb: str) -> None:
    done = niclab(user, verb, "two-nic", "--datapath", "cilium")
    assert (done.returncode, done.stdout) == (2, "")
    what, why, fix = done.stderr.splitlines()
    assert what == "niclab: real Cilium cannot run here"
    assert "eBPF" in why
    assert "root" in fix
    assert not has_holder(user)


@pytest.mark.needs("frr")
def test_bgp_is_spoken(user: User) -> None:
    """FRR runs as the user who owns the user namespace: its own user does not exist there."""
    done = niclab(user, "trace", "two-tors", "--set", "devices=eth0,eth1", "--flow", "tor1.up -> pod1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "carried, 5 of 5 answered" in done.stdout
    assert not has_holder(user)


def test_nothing_is_built_to_explain(user: User) -> None:
    done = niclab(user, "explain", "two-nic", "--flow", "pod1 -> ext1", "--expect", "pod1 -> ext1=eth1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "masqueraded: eth1 is selected" in done.stdout
    assert not has_holder(user)


def test_usage_is_told_without_a_user_namespace(user: User) -> None:
    done = niclab(user, "trace")
    assert done.returncode == 2
    assert "arguments are required: topology" in done.stderr


def test_a_lab_stands_in_the_users_namespace(user: User) -> None:
    up = niclab(user, "up", "two-nic", "--nics", "veth", "--id", "mine")
    assert (up.returncode, up.stderr) == (0, "")
    assert up.stdout.startswith("mine is up: two-nic")
    assert niclab(user, "ls").stdout.startswith("mine  up  two-nic")
    inside = niclab(user, "exec", "node1", "--", "sh", "-c", "ip -br address show eth1; exit 7")
    assert (inside.returncode, inside.stderr) == (7, "")
    assert "10.0.1.1/24" in inside.stdout
    told = niclab(user, "inspect", "node1")
    assert "eth1  veth without default route" in told.stdout
    # The printed line can be pasted into the user's own shell, outside the user namespace.
    (line,) = re.findall(r"^(nsenter .*ip netns exec mine-node1) …$", up.stdout, re.MULTILINE)
    pasted = subprocess.run(
        [*BECOME, "sh", "-c", f"{line} ip route"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "default via 10.0.0.254 dev eth0" in pasted.stdout
    assert not Path("/run/netns/mine-node1").exists(), "nothing of it is the machine's"
    assert niclab(user, "down").stdout == "mine is down\n"
    assert not has_holder(user)


def write(user: User, text: str) -> None:
    (user.home / "work" / "test_it.py").write_text(text)
    shutil.rmtree(user.home / "work" / "artifacts", ignore_errors=True)


PASSING = """\
import os, pytest
pytestmark = pytest.mark.cilium("1.20")
@pytest.mark.parametrize("to", ["pod2", "ext0", "ext1"])
def test_it(lab, to):
    assert os.geteuid() == 0
    lab.send("pod1", to).must_receive()
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "workers"])
def test_pytest_goes_on_in_a_user_namespace(user: User, options: tuple[str, ...]) -> None:
    write(user, PASSING)
    done = user.run("-m", "pytest", "-p", "no:cacheprovider", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "record: artifacts/run-1/run.json" in done.stdout
    assert (user.home / "work/artifacts/run-1/run.json").stat().st_uid == NOBODY


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "workers"])
def test_tests_without_a_lab_stay_where_they_are(user: User, options: tuple[str, ...]) -> None:
    write(user, "import os\n" + PASSING + "def test_other():\n    assert os.geteuid() != 0\n")
    done = user.run("-m", "pytest", "-p", "no:cacheprovider", "-k", "other", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = user.run("-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q")
    assert "4 tests collected" in collected.stdout


def test_a_kept_lab_outlives_the_run(user: User) -> None:
    write(user, PASSING.replace("must_receive", "must_not_receive"))
    done = user.run("-m", "pytest", "-p", "no:cacheprovider", "--keep", "-k", "pod2")
    assert done.returncode == 1, done.stdout + done.stderr
    (lab_id,) = re.findall(r"^kept: niclab inspect --id (lab\w+) ", done.stdout, re.MULTILINE)
    inside = niclab(user, "exec", "--id", lab_id, "node1", "--", "ip", "route")
    assert "default via 10.0.0.254" in inside.stdout
    assert niclab(user, "down", lab_id).returncode == 0
    assert not has_holder(user)


def test_a_run_that_keeps_nothing_ends_its_user_namespace(user: User) -> None:
    write(user, PASSING)
    done = user.run("-m", "pytest", "-p", "no:cacheprovider", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not has_holder(user)
