"""What a machine can have, and what for."""

from __future__ import annotations

from dataclasses import dataclass

BUILTIN = "the built-in datapath"
ROOTLESS = "running without root"
OPTIONAL_TOPOLOGY = "topologies and settings that use it"
CILIUM = "the cilium datapath"
BUNDLES = "fetching cilium bundles"
KIND = "the kind substrate"
BY_HAND = "looking around by hand"

PURPOSES = (BUILTIN, ROOTLESS, OPTIONAL_TOPOLOGY, CILIUM, BUNDLES, KIND, BY_HAND)


@dataclass(frozen=True, slots=True)
class Feature:
    """`detail` says where it was found, or what the trial answered; `install` how to come by it."""

    name: str
    needed_for: str
    present: bool
    detail: str
    install: str
