"""The built-in datapath: the model's decisions carried out by a real kernel, without eBPF."""

from niclab.builtin.datapath import Builtin

__all__ = ["Builtin"]
