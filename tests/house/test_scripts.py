"""The commands, the workflow and the Vagrantfile: what can be said of them without running them whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.busy import processor_time

ROOT = Path(__file__).resolve().parents[2]
# The first two lines decide what a file in scripts/ is: not all of them need be bash.
SHELL = [
    path
    for path in (*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run")
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash\n")
]
COMMANDS = ("scripts/run", "scripts/test", "scripts/setup", "scripts/provision", ".ci/run")

each_script = pytest.mark.parametrize("script", SHELL, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_command_is_there() -> None:
    assert {str(path.relative_to(ROOT)) for path in SHELL} >= set(COMMANDS)


@each_script
def test_script_is_bash_that_stops_at_errors(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK), f"chmod +x {script}"


@each_script
def test_shellcheck_finds_nothing(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_second_setup_costs_next_to_nothing() -> None:
    if not (ROOT / ".venv" / ".stamp").exists():
        pytest.skip("scripts/setup has not run here")
    setup = [str(ROOT / "scripts" / "setup")]
    # The first call may have work to do, when pyproject.toml was changed since the last one.
    subprocess.run(setup, check=True, stdin=subprocess.DEVNULL)
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}

    def again() -> None:
        done = subprocess.run(setup, capture_output=True, text=True, check=True, cwd="/", env=bare)
        assert done.stdout + done.stderr == ""

    assert processor_time(again) < 2


def test_setup_names_what_is_missing_when_it_cannot_install(tmp_path: Path) -> None:
    """Without apt-get and without nft: one line, exit 2, and no half-made .venv."""
    project, commands = tmp_path / "project", tmp_path / "bin"
    (project / "scripts").mkdir(parents=True)
    commands.mkdir()
    shutil.copy(ROOT / "scripts" / "setup", project / "scripts")
    shutil.copy(ROOT / "pyproject.toml", project)
    for name in ("dirname", "sha256sum", "readlink", "cat", "flock", "rm", "sort", "basename", "python3"):
        found = shutil.which(name)
        assert found is not None, name
        (commands / name).symlink_to(found)
    text = (project / "scripts" / "setup").read_text()
    # The script looks into sbin by itself; this machine's has everything.
    text = re.sub(r":/usr/local/sbin:/usr/sbin:/sbin", "", text)
    bash = shutil.which("bash")
    assert bash is not None
    (project / "scripts" / "setup").write_text(text)
    done = subprocess.run(
        [bash, str(project / "scripts" / "setup")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(commands), "HOME": "/nonexistent"},
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert {"iproute2", "nftables", "util-linux"} <= set(done.stderr.split())
    assert not (project / ".venv").exists()


def test_ci_runs_both_commands_and_fails_with_either(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    for test, run, wanted in ((0, 0, 0), (1, 0, 1), (0, 2, 1), (5, 5, 1)):
        for name, status in (("test", test), ("run", run)):
            script = tmp_path / "scripts" / name
            script.write_text(f"#!/bin/sh\necho {name}\nexit {status}\n")
            script.chmod(0o755)
        command = [str(tmp_path / ".ci" / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stdout.split()) == (wanted, ["test", "run"])


@pytest.mark.parametrize(
    ("apt_get", "words"),
    [(None, "to run them: sudo apt-get install --no-install-recommends"), ("exit 100", "tests that need them will be")],
)
def test_packages_that_only_some_tests_need_may_be_missing(tmp_path: Path, apt_get: str | None, words: str) -> None:
    """Where they cannot be installed, one line says which; the lab itself is set up all the same."""
    project, commands = tmp_path / "project", tmp_path / "bin"
    (project / "scripts").mkdir(parents=True)
    (project / ".venv" / "bin").mkdir(parents=True)
    commands.mkdir()
    text = (ROOT / "scripts" / "setup").read_text()
    text = re.sub(r":/usr/local/sbin:/usr/sbin:/sbin", "", text).replace("/run/systemd/system", str(tmp_path / "none"))
    (project / "scripts" / "setup").write_text(text.replace("/usr/lib/frr/bgpd", str(tmp_path / "none")))
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    programs = ("dirname", "sha256sum", "readlink", "cat", "flock", "rm", "sort", "env", "ip", "nft", "unshare")
    for name in (*programs, "nsenter", "mount", "sysctl"):
        place = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert place is not None, name
        (commands / name).symlink_to(place)
    bash = shutil.which("bash")
    assert bash is not None
    if apt_get is not None:
        (commands / "apt-get").write_text(f"#!{bash}\n{apt_get}\n")
        (commands / "apt-get").chmod(0o755)
    stamp = subprocess.run(
        [bash, "-c", f"sha256sum pyproject.toml scripts/setup; echo {project} $(readlink -f .venv/bin/python)"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (project / ".venv" / ".stamp").write_text(stamp)
    done = subprocess.run(
        [bash, str(project / "scripts" / "setup"), "run"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(commands), "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stderr or (os.geteuid() != 0 and "to run them" in done.stderr), done.stderr
    assert "frr" in done.stderr


def test_workflow_runs_both_commands() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "./scripts/test" in commands
    assert "./scripts/run" in commands
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_vagrant_machine_has_three_nics() -> None:
    vagrantfile = ROOT / "Vagrantfile"
    text = vagrantfile.read_text()
    addresses = re.findall(r'^  "\w+" => "(192\.168\.\d+\.\d+)",$', text, re.MULTILINE)
    assert len(set(addresses)) == 3
    assert text.count('network "private_network"') == 1  # one for each of NICS
    assert "scripts/provision" in text


def test_vagrantfile_is_ruby() -> None:
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not installed")
    subprocess.run(["ruby", "-c", str(ROOT / "Vagrantfile")], check=True, capture_output=True)
