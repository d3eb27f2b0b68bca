"""What is wrong with a topology, before anything is built. `load` reads a file and checks it."""

from niclab.check.topology import check, check_flow, end_exists, ends, load, loads

__all__ = ["check", "check_flow", "end_exists", "ends", "load", "loads"]
