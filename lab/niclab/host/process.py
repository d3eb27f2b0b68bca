"""Running programs: argument lists only, output captured, a failure shown once as a line that can be pasted."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from niclab.errors import LabError

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the system directories on PATH, which a user's shell may lack."""
    found = dict(os.environ)
    found["PATH"] = f"{found.get('PATH', '/usr/bin:/bin')}:{_SYSTEM_PATH}"
    return found | dict(extra or {})


def run(
    arguments: Sequence[str], *, stdin: str | None = None, timeout: float = 30, namespace: str | None = None
) -> str:
    """The program's standard output. Raises LabError when it is missing, fails or takes over `timeout` seconds.

    `namespace`: the named network namespace the calling thread is in, for the line that is shown.
    """
    entering = ["ip", "netns", "exec", namespace] if namespace else []
    line = shlex.join([*entering, *arguments])
    try:
        done = subprocess.run(
            list(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        raise LabError(
            f"the program {arguments[0]!r} is not installed", fix="niclab check says which package brings it"
        ) from None
    except OSError as error:
        raise LabError(f"cannot run: {line}", why=error.strerror or str(error)) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"took over {timeout:g} s: {line}") from None
    if done.returncode != 0:
        reported = (done.stderr or done.stdout).strip()
        raise LabError(f"failed with status {done.returncode}: {line}", why=reported)
    return done.stdout
