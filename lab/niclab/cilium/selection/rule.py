"""The rules of device selection: their stable names, their order by version, and where Cilium has them. Pure."""

from __future__ import annotations

from enum import StrEnum

from niclab.cilium.version import Version

SOURCE = "pkg/datapath/linux/devices_controller.go isSelectedDevice"


class Rule(StrEnum):
    """What decides about a device; the value is a stable name for reports."""

    LINK_NOT_SEEN = "link-not-seen"
    NO_ADDRESSES = "no-addresses"
    NOT_UP = "not-up"
    LISTED = "listed"
    EXCLUDED_BY_LIST = "excluded-by-list"
    NOT_LISTED = "not-listed"
    EXCLUDED_FLAG = "excluded-flag"
    PARENT_NOT_FOUND = "parent-not-found"
    BRIDGED_OR_BONDED = "bridged-or-bonded"
    EXCLUDED_PREFIX = "excluded-prefix"
    VETH_WITHOUT_DEFAULT_ROUTE = "veth-without-default-route"
    BRIDGE_LIKE = "bridge-like"
    IPOIB = "ipoib"
    NO_GLOBAL_ROUTE = "no-global-route"
    DETECTED = "detected"

    def number(self, version: Version) -> int:
        """Its place in the version's order, from 1. Rules that come out of one test share a number."""
        return next(place for place, rules in enumerate(order(version), 1) if self in rules)

    @property
    def source(self) -> str:
        """The Cilium file and function that has it."""
        if self in (Rule.LISTED, Rule.EXCLUDED_BY_LIST, Rule.NOT_LISTED):
            return f"{SOURCE}; pkg/datapath/tables/device.go DeviceFilter.Match"
        if self is Rule.EXCLUDED_PREFIX:
            return f"{SOURCE}; pkg/defaults/node.go ExcludedDevicePrefixes"
        if self is Rule.VETH_WITHOUT_DEFAULT_ROUTE:
            return f"{SOURCE}; pkg/datapath/tables/route.go HasDefaultRoute"
        if self is Rule.NO_GLOBAL_ROUTE:
            return "pkg/datapath/linux/devices_controller.go isSelectedDevice, hasGlobalRoute"
        return SOURCE


_USABLE = ((Rule.NO_ADDRESSES,), (Rule.NOT_UP,))
_LIST = ((Rule.LISTED, Rule.EXCLUDED_BY_LIST, Rule.NOT_LISTED),)
_DETECTION = (
    (Rule.EXCLUDED_FLAG,),
    (Rule.BRIDGED_OR_BONDED, Rule.PARENT_NOT_FOUND),
    (Rule.EXCLUDED_PREFIX,),
    (Rule.VETH_WITHOUT_DEFAULT_ROUTE,),
    (Rule.BRIDGE_LIKE, Rule.IPOIB),
    (Rule.NO_GLOBAL_ROUTE,),
    (Rule.DETECTED,),
)


def order(version: Version) -> tuple[tuple[Rule, ...], ...]:
    """The tests of one version in their order; the first that applies decides.

    From 1.19 on the user's list comes before the address and UP tests (6d5900a0d7, PR #41837). Up to 1.17 there is one
    more, before the prefixes, that no kernel from 5.8 on can fail ("L3 device, kernel too old"): it is left out.
    """
    first = (*_USABLE, *_LIST) if version < (1, 19) else (*_LIST, *_USABLE)
    return ((Rule.LINK_NOT_SEEN,), *first, *_DETECTION)
