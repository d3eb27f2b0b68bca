"""What the project's own tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis

pytest_plugins = ["pytester"]

# Labs of these tests are the built-in model's unless a test says otherwise, whatever this machine has at hand: with a
# bundle real Cilium would be the default. Tests that are about real agents ask `tests.support.bundles` for them.
os.environ["NICLAB_TEST_CILIUM"] = os.environ.pop("NICLAB_CILIUM", os.environ.get("NICLAB_TEST_CILIUM", ""))
os.environ.setdefault("NICLAB_HOME", str(Path(os.environ.get("TMPDIR", "/tmp"), f"niclab-tests-{os.getuid()}")))
# On a CI machine pytest words its summary otherwise; tests that read what pytest prints want it the same everywhere.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

# The same examples every time: a result must not depend on the day, and not on how busy the machine is.
# NICLAB_EXPLORE=1 looks for new examples.
hypothesis.settings.register_profile("steady", derandomize=not os.environ.get("NICLAB_EXPLORE"), deadline=None)
hypothesis.settings.load_profile("steady")


def pytest_sessionstart() -> None:
    """A shell without job control starts what it puts in the background with SIGINT ignored, and programs that tests
    interrupt would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
