"""niclab: which physical NIC carries this pod's traffic, and why?

    with Lab.deploy("two-nic", LAB_BASELINE.merged(Settings.of(devices="eth1"))) as lab:
        flow = lab.send("pod1", "pod2")
        assert flow.left("node1") == {"eth0"}
"""

from lab.errors import InputError, LabError, Problem
from lab.lab import Lab
from lab.prediction import Prediction, World
from lab.selection import Version
from lab.settings import CILIUM_DEFAULTS, LAB_BASELINE, Settings
from lab.topology import Flow, Topology, load
from lab.verdict import FlowResult, NicMismatch, Unmeasured, Verdict

__all__ = [
    "CILIUM_DEFAULTS",
    "LAB_BASELINE",
    "Flow",
    "FlowResult",
    "InputError",
    "Lab",
    "LabError",
    "NicMismatch",
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
