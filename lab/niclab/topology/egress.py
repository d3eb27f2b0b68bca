"""Egress policies: pods whose traffic to some destinations leaves the cluster by a gateway node, with its address.

What a CiliumEgressGatewayPolicy says (pkg/k8s/apis/cilium.io/v2/cegp_types.go), with nodes and pods by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from niclab.topology.fields import IpAddress, IpNetwork, Model, NicName, one_or_many, or_empty


class EgressPolicy(Model):
    """Which pods, to where, by which gateway. With neither `interface` nor `egress_ip` the gateway's NIC is the one
    with the default route.
    """

    pods: Annotated[tuple[str, ...], BeforeValidator(one_or_many), Field(description="names of pods")] = ()
    labels: Annotated[
        dict[str, str], BeforeValidator(or_empty), Field(description="pods that have all of these labels")
    ] = {}
    destinations: Annotated[tuple[IpNetwork, ...], BeforeValidator(one_or_many), Field(min_length=1)]
    excluded: Annotated[
        tuple[IpNetwork, ...],
        BeforeValidator(one_or_many),
        Field(description="parts of the destinations that the policy leaves alone"),
    ] = ()
    gateways: Annotated[
        tuple[str, ...],
        BeforeValidator(one_or_many),
        Field(min_length=1, description="names of nodes; with several, each pod has one of them"),
    ]
    interface: Annotated[
        NicName | None, Field(description="the gateway's NIC, whose first address is the egress IP")
    ] = None
    egress_ip: Annotated[IpAddress | None, Field(description="an address of one of the gateway's NICs")] = None

    def selects(self, pod: str, labels: Mapping[str, str]) -> bool:
        """Does the policy apply to a pod of this name with these labels?"""
        return pod in self.pods or self.selects_by_label(labels)

    def selects_by_label(self, labels: Mapping[str, str]) -> bool:
        """Does the policy name labels, and does a pod with these have all of them?"""
        return bool(self.labels) and self.labels.items() <= labels.items()
