"""skopeo, which copies images, and umoci, which unpacks them: no layer, link or whiteout is handled by code of ours.

An unpacked tree is used through `inside` only. What an image calls a device becomes an empty file, and everything in it
belongs to the user who unpacked it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from niclab.errors import LabError
from niclab.host import process

FULL = "no space left on device"
_REACH = 15
"""Seconds for a registry to say what it has: a network that swallows packets must not keep anybody waiting."""
_COPY = 3600.0
_UNPACK = 900.0
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
_POLICIES = ("/etc/containers/policy.json", ".config/containers/policy.json")


def require() -> None:
    """Raises LabError when one of the two programs is not installed."""
    missing = [name for name in ("skopeo", "umoci") if not shutil.which(name, path=process.environment()["PATH"])]
    if missing:
        raise LabError(
            f"{' and '.join(missing)} cannot be found on PATH",
            why="images are copied with skopeo and unpacked with umoci",
            fix=f"apt-get install {' '.join(missing)}; a directory (niclab … add NAME DIR) needs neither",
        )


def digest_of(reference: str) -> str:
    """The digest of the manifest (or of the index of manifests) behind a reference. Raises LabError."""
    wanted = ["inspect", *_daemon("--daemon-host", reference), "--no-tags", "--format", "{{.Digest}}", reference]
    return _skopeo([f"--command-timeout={_REACH}s"], wanted, timeout=_REACH + 10).strip()


def copy(reference: str, layout: Path) -> None:
    """Copy one image, this machine's architecture of it, to an OCI layout. Every blob's digest is checked by skopeo.

    Raises LabError.
    """
    # Uncompressed layers, as in archives, are compressed on the way (umoci insists): as quickly as can be.
    quickly = ["--quiet", "--dest-compress-level=1"]
    command = ["copy", *_daemon("--src-daemon-host", reference), *quickly, reference, f"oci:{_plain(layout)}:image"]
    # skopeo writes to /var/tmp else, where a killed process leaves it.
    _skopeo([f"--tmpdir={layout.parent}"], command, timeout=_COPY)


def unpack(layout: Path, directory: Path) -> Path:
    """The root file system of the image in a layout, under `directory`. Raises LabError."""
    # --rootless also for root: no devices are made, and no file belongs to a user of the image's.
    _tool(["umoci", "unpack", "--rootless", "--image", f"{_plain(layout)}:image", str(directory)], _UNPACK)
    return directory / "rootfs"


def full_disk(why: str) -> str:
    """How to mend it, when a program's words are those of a full disk; else nothing."""
    return "free some space, or let NICLAB_HOME point to where there is more" if FULL in why.lower() else ""


def _daemon(option: str, reference: str) -> list[str]:
    """skopeo does not look for the engine where every other client does."""
    host = os.environ.get("DOCKER_HOST")
    return [option, host] if host and reference.startswith("docker-daemon:") else []


def _skopeo(options: Sequence[str], command: Sequence[str], timeout: float) -> str:
    # Without any policy skopeo refuses to work; one that is there is the user's and holds.
    if not any(Path.home().joinpath(policy).exists() for policy in _POLICIES):
        options = [*options, "--insecure-policy"]
    return _tool(["skopeo", *options, *command], timeout)


def _tool(command: Sequence[str], timeout: float) -> str:
    """Run one; its own words become the reason. It dies with this process, also when that is killed."""
    try:
        return process.run(["setpriv", "--pdeathsig", "KILL", *command], timeout=timeout)
    except LabError as error:
        why = _words(error.why) or error.what
        raise LabError(f"{command[0]} failed", why=why, fix=full_disk(why)) from None


def _words(reported: str) -> str:
    """The sentence in a program's output, without the time and the levels around it."""
    if fatal := _FATAL.findall(reported):
        return str(fatal[-1]).replace('\\"', '"')
    marked = [line.partition("⨯")[2].strip() for line in reported.splitlines() if "⨯" in line]
    return marked[-1] if marked else reported


def _plain(path: Path) -> str:
    if ":" in os.fspath(path):
        raise LabError(
            f"the store cannot be in {path.parent}",
            why="skopeo and umoci take what follows a colon for a tag",
            fix="let NICLAB_HOME name a directory without a colon",
        )
    return os.fspath(path)
