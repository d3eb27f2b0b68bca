"""Settings that fit a topology: the IPAM mode follows from where its pods have their addresses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lab.errors import InputError, Problem
from lab.settings import Settings
from lab.topology import Topology

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
    """The settings, with the topology's IPAM mode and what that needs where they say nothing of `ipam`.

    Raises InputError where they ask for a mode that the topology has no addresses for.
    """
    said = settings.values.get("ipam")
    wanted = topology.ipam
    if said is None:
        needs = _NEEDS.get(wanted)
        return settings if needs is None else settings.with_values({"ipam": wanted, **needs})
    if (
        said == wanted
        or (said not in _NEEDS and wanted not in _NEEDS)
        or (said, wanted) == ("multi-pool", "kubernetes")
    ):
        return settings
    why = f"the topology's nodes have {_WANTS[wanted]}: their pods' addresses ask for ipam={wanted}"
    mend = f"leave ipam out, or use a topology with {_WANTS[said]}" if said in _WANTS else "leave ipam out"
    raise InputError([Problem(topology.name, 0, f"ipam={said}", why, mend)])
