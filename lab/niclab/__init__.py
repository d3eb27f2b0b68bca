"""niclab: which physical NIC carries this pod's traffic, and why?

with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth1"))) as lab:
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == {"eth0"}
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niclab.check import load
    from niclab.cilium.version import Version
    from niclab.errors import InputError, LabError, Problem
    from niclab.flow.predict import World
    from niclab.flow.trace import Trace
    from niclab.flow.verdict import FlowResult, NicMismatch, Unmeasured, Verdict
    from niclab.lab import Lab
    from niclab.plugin.mutations import fails_without
    from niclab.settings import CILIUM_DEFAULTS, LAB_BASELINE, NodeSettings, Settings
    from niclab.topology.model import Flow, Topology
else:
    # pytest imports this package in every repository of a machine that has the plugin: only what is used is loaded.
    _HOMES = {
        "check": ("load",),
        "cilium.version": ("Version",),
        "errors": ("InputError", "LabError", "Problem"),
        "flow.predict": ("World",),
        "flow.trace": ("Trace",),
        "flow.verdict": ("FlowResult", "NicMismatch", "Unmeasured", "Verdict"),
        "lab": ("Lab",),
        "plugin.mutations": ("fails_without",),
        "settings": ("CILIUM_DEFAULTS", "LAB_BASELINE", "NodeSettings", "Settings"),
        "topology.model": ("Flow", "Topology"),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"niclab.{module}"), name)
        raise AttributeError(f"module 'niclab' has no attribute {name!r}")


__all__ = [
    "CILIUM_DEFAULTS",
    "LAB_BASELINE",
    "Flow",
    "FlowResult",
    "InputError",
    "Lab",
    "LabError",
    "NicMismatch",
    "NodeSettings",
    "Problem",
    "Settings",
    "Topology",
    "Trace",
    "Unmeasured",
    "Verdict",
    "Version",
    "World",
    "fails_without",
    "load",
]
