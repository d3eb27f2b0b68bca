"""Cilium's choice of devices, direct routing device and node addresses, by version, each with its reason. Pure.

From links, addresses, routes and settings; the sources are named where each rule is decided. What a running agent
makes of changes is `niclab.cilium.selection.controller`'s.
"""
