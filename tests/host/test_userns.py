"""The lab without root, really run as another user: what works in a user namespace, and what is reported where the
kernel refuses them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from niclab.errors import LabError
from niclab.host import userns

from tests.support.busy import PATIENCE
from tests.support.unprivileged import BECOME, NOBODY, PYTEST, User, unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with unprivileged(*PYTEST) as user:
        yield user


def test_everything_of_the_builtin_datapath_works_in_a_user_namespace(user: User) -> None:
    done = user.code("""
import json
from niclab.host.features import probe, required_missing
features = probe()
print(json.dumps([[f.name, f.detail] for f in required_missing(features)]), len(features) > 20)
""")
    assert (done.stdout, done.stderr) == ("[] True\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "ip link add v0 type veth peer name v1",
        "ip link add br0 type bridge",
        "ip link add vx0 type vxlan external dstport 4789",
        "nft add table ip probe",
        "ip netns add node1",
    ],
)
def test_a_command_works_in_a_user_namespace(user: User, command: str) -> None:
    done = user.code("enter(); import subprocess; subprocess.run(sys.argv[1:], check=True)", *command.split())
    assert (done.returncode, done.stderr) == (0, "")


def test_named_namespaces_and_packet_sockets_work_in_a_user_namespace(user: User) -> None:
    done = user.code("""
enter()
import socket
for line in ("netns add node1", "link add v0 type veth peer name eth0 netns node1", "-n node1 link set eth0 up",
             "link set v0 up"):
    subprocess.run(["ip", *line.split()], check=True)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300) as tap:
    tap.bind(("v0", 3))
    tap.settimeout(5)
    send = "import socket; s = socket.socket(17, 3); s.bind(('eth0', 0)); s.send(b'U' * 14 + b'seen' * 20)"
    subprocess.run(["ip", "netns", "exec", "node1", sys.executable, "-c", send], check=True)
    while b"seen" not in tap.recv(2000):
        pass
print(Path("/run/netns/node1").exists())
""")
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert not Path("/run/netns/node1").exists()


def test_the_command_line_and_the_exit_status_pass_through(user: User) -> None:
    done = user.code("enter(); print(os.geteuid(), sys.argv[1:], is_inside()); sys.exit(7)", "a b", "$(c)", "")
    assert (done.returncode, done.stdout) == (7, "0 ['a b', '$(c)', ''] True\n")


def test_a_file_written_in_a_user_namespace_belongs_to_the_user(user: User) -> None:
    user.code("enter(); Path('mine').touch()").check_returncode()
    assert (user.home / "work" / "mine").stat().st_uid == NOBODY


def test_nothing_is_left_of_a_killed_user_namespace(user: User) -> None:
    code = (
        "from niclab.host.userns import *; enter(); subprocess.run(['ip', 'netns', 'add', 'node1']);"
        "print(os.readlink('/proc/self/ns/net'), flush=True); signal.pause()"
    )
    with subprocess.Popen(user.command("-c", "import signal;" + code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        namespace = process.stdout.readline().strip()
        assert namespace in _namespaces()
        process.send_signal(signal.SIGKILL)
    assert namespace.startswith("net:")
    assert namespace not in _namespaces()
    assert not Path("/run/netns/node1").exists()


def _namespaces() -> set[str]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("script", [False, True], ids=["python -m pytest", "pytest"])
def test_pytest_goes_on_in_a_user_namespace_with_its_terminal(user: User, script: bool) -> None:
    work = user.home / "work"
    (work / "conftest.py").write_text("""
import niclab.host.userns
def pytest_configure(config):
    niclab.host.userns.enter_pytest(config)
""")
    (work / "test_it.py").write_text("""
import os
def test_it(request):
    assert os.geteuid() == 0
    request.config.pluginmanager.getplugin("capturemanager").suspend(in_=True)  # as --pdb does
    assert os.read(0, 100) == b"typed\\n"
    assert False, "on purpose"
""")
    (user.home / "pytest-script").write_text("import sys, pytest\nsys.exit(pytest.main())\n")
    start = [str(user.home / "pytest-script")] if script else ["-m", "pytest"]
    done = user.run(*start, "-p", "no:cacheprovider", "test_it.py", "-k", "test_it or other", stdin="typed\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AssertionError: on purpose" in done.stdout
    assert done.stdout.count("test session starts") == 1


def test_root_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "is_able", lambda: True)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "never run"])
    userns.enter()


def test_a_kernel_that_forbids_it_is_named_in_one_line(user: User) -> None:
    """In a user namespace of its own the sysctl can be set without touching the host's."""
    code = "from niclab.host.userns import *\ntry: enter()\nexcept LabError as error: print(error)"
    inner = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "env", *user.command("-c", code)[len(BECOME) :]]
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    command = [*BECOME, "unshare", "--user", "--map-root-user", "--", "sh", "-c", script, "sh", *inner]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd="/")
    first, *_, last = done.stdout.splitlines()
    assert first == "cannot run without root: user.max_user_namespaces is 0, so the kernel refuses user namespaces"
    assert "sudo sysctl -w user.max_user_namespaces=" in last


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel.unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_the_refusing_sysctl_is_found(tmp_path: Path, name: str, value: str) -> None:
    switch = tmp_path.joinpath(*name.split("."))
    switch.parent.mkdir()
    switch.write_text(f"{value}\n")
    error = userns.explain_refusal("Operation not permitted", sysctls=tmp_path)
    assert f"{name} is {value}" in error.what
    assert f"sysctl -w {name}=" in error.fix


def test_a_refusal_without_a_sysctl_tells_what_unshare_said(tmp_path: Path) -> None:
    error = userns.explain_refusal("unshare: unshare failed: Operation not permitted", sysctls=tmp_path)
    assert "unshare failed" in error.why
    assert "--privileged" in error.fix


ENTER = "enter(persistent=True)\nsubprocess.run(sys.argv[1:], check=True)"


@pytest.fixture
def clean_user(user: User) -> Iterator[User]:
    user.clean()
    yield user
    user.clean()


def test_a_persistent_user_namespace_is_found_again(clean_user: User) -> None:
    user = clean_user
    user.code(ENTER, "ip", "netns", "add", "node1").check_returncode()
    assert user.code(ENTER, "ip", "netns", "list").stdout == "node1\n"
    assert user.code(ENTER, "pwd").stdout.strip() == str(user.home / "work")
    assert user.code("print(find_holder() is not None)").stdout == "True\n"


def test_ending_a_user_namespace_ends_what_runs_in_it(clean_user: User) -> None:
    user = clean_user
    left = ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & readlink /proc/self/ns/net"]
    namespace = user.code(ENTER, *left).stdout.strip()
    assert namespace in _namespaces()
    assert user.code("print(end_holder(), find_holder(), end_holder())").stdout == "True None False\n"
    assert namespace not in _namespaces()


def test_a_user_namespace_can_be_ended_from_inside(clean_user: User) -> None:
    user = clean_user
    assert user.code("enter(persistent=True); print(end_holder())").stdout == "True\n"
    assert user.code("print(find_holder())").stdout == "None\n"


def test_two_commands_at_once_share_one_user_namespace(clean_user: User) -> None:
    code = "from niclab.host.userns import *; print(holder().pid)"
    both = [subprocess.Popen(clean_user.command("-c", code), stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate(timeout=PATIENCE)[0] for process in both}) == 1


def test_a_pid_used_again_is_not_taken_for_the_holder(clean_user: User) -> None:
    record = clean_user.code("print(find_holder()); print(holder().pid)").stdout.split()
    assert record[0] == "None"
    file = Path(f"/tmp/niclab-{NOBODY}/holder.json")
    genuine = file.read_text()
    file.write_text(genuine.replace('"started": ', '"started": 1'))
    assert clean_user.code("print(find_holder())").stdout == "None\n"
    file.write_text(genuine)


def test_a_record_somebody_else_could_have_written_is_refused(clean_user: User) -> None:
    directory = Path(f"/tmp/niclab-{NOBODY}")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755)  # root's, not the user's
    done = clean_user.code("find_holder()")
    assert f"{directory} is not a directory of yours alone" in done.stderr


def test_a_mark_of_no_user_namespace_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(userns.MARK, "transient")
    monkeypatch.setattr(userns, "is_able", lambda: False)
    with pytest.raises(LabError, match="in a user namespace"):
        userns.enter(persistent=True)
