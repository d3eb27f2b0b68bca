"""Settings that fit a topology: the IPAM mode follows from where its pods have their addresses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from niclab.errors import InputError, Problem
from niclab.settings import Settings
from niclab.topology import Topology

_WANTS: Mapping[str, str] = MappingProxyType(
    {
        "kubernetes": "pod_cidrs alone",
        "multi-pool": "pools",
        "eni": "NICs with pod_addresses",
    }
)
_NEEDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "multi-pool": {},
        # What the Helm chart writes for `eni.enabled` (templates/cilium-configmap.yaml); a tunnel is refused.
        "eni": {"routing-mode": "native", "enable-endpoint-routes": "true"},
    }
)


def fit(settings: Settings, topology: Topology) -> Settings:
    """The settings, with the topology's IPAM mode and what that needs where `ipam` is not set.

    Raises InputError where they ask for a mode that the topology has no addresses for.
    """
    reported = settings.values.get("ipam")
    wanted = topology.ipam
    if reported is None:
        needs = _NEEDS.get(wanted)
        return settings if needs is None else settings.with_values({"ipam": wanted, **needs})
    if (
        reported == wanted
        or (reported not in _NEEDS and wanted not in _NEEDS)
        or (reported, wanted) == ("multi-pool", "kubernetes")
    ):
        return settings
    why = f"the topology's nodes have {_WANTS[wanted]}: their pods' addresses ask for ipam={wanted}"
    fix = f"leave ipam out, or use a topology with {_WANTS[reported]}" if reported in _WANTS else "leave ipam out"
    raise InputError([Problem(topology.name, 0, f"ipam={reported}", why, fix)])
