"""Waiting for a condition or a lock, with a deadline: the one rule of the package."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from niclab.errors import LabError

T = TypeVar("T")
VARIABLE = "NICLAB_PATIENCE"
"""How many times longer than elsewhere is waited on this machine: emulated ones need 5 to 10."""


def patient(deadline: float) -> float:
    """A deadline on this machine: what is right where processors are real, times `NICLAB_PATIENCE`. Raises LabError."""
    chosen = os.environ.get(VARIABLE) or "1"
    with contextlib.suppress(ValueError):
        if math.isfinite(factor := float(chosen)) and factor >= 1:
            return deadline * factor
    raise LabError(f"{VARIABLE} is {chosen!r}", why="it is a factor for every deadline", fix=f"{VARIABLE}=5, or unset")


def wait_until(
    check: Callable[[], T],
    deadline: float,
    *,
    done: Callable[[T], bool] = bool,
    every: float = 0.01,
    retry: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """Call `check` now and then every `every` seconds; return its answer when that is `done`.

    Both are longer on a slow machine (`patient`): there asking takes time from what is waited for.
    After `deadline` seconds the last answer is returned as it is: the caller decides what that means.
    For a `check` that lists what is missing, `done` is `operator.not_`. An exception of a type in `retry` counts as
    "not yet", and is raised after the deadline; any other is raised at once.
    """
    import tenacity  # not needed where nobody waits: user namespaces are entered without it

    # Made for each call: a decorated function's statistics are shared, and threads clear them under each other.
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(retry) | tenacity.retry_if_result(lambda answer: not done(answer)),
        wait=tenacity.wait_fixed(patient(every)),
        stop=tenacity.stop_after_delay(patient(deadline)),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else check(),
    )
    return retrying(check)


def try_until(
    act: Callable[[], T], deadline: float, *, retry: type[Exception] | tuple[type[Exception], ...], every: float = 0.01
) -> T:
    """Call `act` now and then every `every` seconds, until it raises no exception of a type in `retry`.

    After `deadline` seconds the exception is raised.
    """
    return wait_until(act, deadline, done=lambda _: True, every=every, retry=retry)


def lock(path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    """A descriptor that holds the flock(2) of a file or directory until it is closed, or its process has ended.

    Raises BlockingIOError while another process has it, FileNotFoundError when it has been removed, also just now.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, how)
        if os.fstat(handle).st_ino != path.stat().st_ino:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold a lock during the block. Raises BlockingIOError after `patience` seconds, if given, and as `lock` does."""
    handle = (
        lock(path, fcntl.LOCK_EX)
        if patience is None
        else try_until(lambda: lock(path), patience, retry=BlockingIOError)
    )
    try:
        yield
    finally:
        os.close(handle)
