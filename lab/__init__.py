"""niclab: which physical NIC carries this pod's traffic, and why?

with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth1"))) as lab:
    flow = lab.send("pod1", "pod2")
    assert flow.left("node1") == {"eth0"}
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.errors import InputError, LabError, Problem
    from lab.lab import Lab
    from lab.prediction import Prediction, World
    from lab.selection import Version
    from lab.settings import CILIUM_DEFAULTS, LAB_BASELINE, NodeSettings, Settings
    from lab.topology import Flow, Topology, load
    from lab.verdict import FlowResult, NicMismatch, Unmeasured, Verdict
else:
    # pytest imports this package in every repository of a machine that has the plugin: only what is used is loaded.
    _HOMES = {
        "errors": ("InputError", "LabError", "Problem"),
        "lab": ("Lab",),
        "prediction": ("Prediction", "World"),
        "selection": ("Version",),
        "settings": ("CILIUM_DEFAULTS", "LAB_BASELINE", "NodeSettings", "Settings"),
        "topology": ("Flow", "Topology", "load"),
        "verdict": ("FlowResult", "NicMismatch", "Unmeasured", "Verdict"),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"lab.{module}"), name)
        raise AttributeError(f"module 'lab' has no attribute {name!r}")


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
    "Prediction",
    "Problem",
    "Settings",
    "Topology",
    "Unmeasured",
    "Verdict",
    "Version",
    "World",
    "load",
]
