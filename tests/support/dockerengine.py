"""A Docker engine of the tests' own: no networks, no firewall rules, its files below one directory."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tenacity

WHY_NONE = "" if os.geteuid() == 0 and shutil.which("dockerd") else "a Docker engine needs root and dockerd (docker.io)"


@contextmanager
def running(place: Path) -> Iterator[str]:
    """Start dockerd with its files below `place`, and yield its DOCKER_HOST. `place` is short: it holds sockets."""
    host = f"unix://{place}/docker.sock"
    command = [
        *("dockerd", "--host", host, "--data-root", str(place / "data"), "--exec-root", str(place / "exec")),
        *(
            "--pidfile",
            str(place / "dockerd.pid"),
            "--storage-driver",
            "vfs",
            "--config-file",
            str(place / "none.json"),
        ),
        # It must leave this machine's network alone.
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    ]
    (place / "none.json").write_text("{}")
    with (place / "dockerd.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as engine:
        try:
            _wait_for(host, engine, place / "dockerd.log")
            yield host
        finally:
            # It ends its containerd itself; killed, it would leave that behind.
            engine.terminate()


def _wait_for(host: str, engine: subprocess.Popen[bytes], log: Path) -> None:
    docker = importlib.import_module("docker")
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(90),
        wait=tenacity.wait_fixed(0.1),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    for attempt in retrying:
        with attempt:
            if engine.poll() is not None:
                raise AssertionError(f"dockerd ended at once: {log.read_text()[-2000:]}")
            try:
                client = docker.DockerClient(base_url=host, timeout=5)
            except docker.errors.DockerException as error:
                raise OSError(error) from error
            client.close()
