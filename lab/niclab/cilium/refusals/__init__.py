"""Settings that an agent refuses to run with, in its own words, by version. Pure.

The words are those of the sources of 1.16.19, 1.17.12, 1.18.10, 1.19.0-rc.0, 1.20 and 1.21, without what wraps them
("unable to run agent: failed to start: …"); those of 1.18.10 and 1.20.0-dev were read in agents' logs too. The first
check that an agent comes to has the word, so their order is the agent's.
"""

from __future__ import annotations

from niclab.cilium.refusals.model import Refusal
from niclab.cilium.refusals.options import OPTIONS
from niclab.cilium.refusals.start import after_devices, before_devices
from niclab.cilium.selection import DirectRouting, Version
from niclab.settings import NodeView


def refused(settings: NodeView, version: Version, drd: DirectRouting | None = None) -> Refusal | None:
    """Why an agent that is told this exits, or None. `drd`: the device it finds, if it is known what it will find."""
    for check in (*OPTIONS, before_devices):
        if found := check(settings, version):
            return found
    if drd is not None and drd.exits is not None:
        where = "daemon.go newDaemon" if version < (1, 19) else "daemon.go configureDaemon"
        return Refusal(drd.exits, f"daemon/cmd/{where}")
    return after_devices(settings, version)


__all__ = ["Refusal", "refused"]
