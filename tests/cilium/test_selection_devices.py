"""Which devices an agent selects, by version: upstream's cases (D), cases run against a real controller (x), and more.

The upstream cases are those of pkg/datapath/linux/testdata/device-*.txtar; what changes while an agent runs is in
test_selection_runtime.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from niclab.cilium.selection.devices import Rule, order, unmatched
from niclab.cilium.selection.links import Link
from niclab.cilium.version import VERSIONS, Version

from tests.support.selecting import (
    FROM_1_19,
    FROM_1_20,
    UP_TO_1_18,
    V16,
    V18,
    V19,
    V20,
    addresses,
    decisions,
    link,
    lo,
    selected,
    view,
)

every_version = pytest.mark.parametrize("version", VERSIONS, ids=str)
VETH0 = link("veth0", 2, "192.168.0.1/24", kind="veth")
VETH1 = link("veth1", 3, kind="veth")


def versions(*which: Version) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("version", which, ids=str)


@every_version
def test_d1_a_veth_without_a_default_route_is_not_selected(version: Version) -> None:
    found = decisions([lo(), VETH0, VETH1], version)
    assert not any(device.selected for device in found.values())
    assert found["veth0"].rule is Rule.VETH_WITHOUT_DEFAULT_ROUTE
    assert found["veth1"].reason == "device has no addresses"
    assert found["lo"].reason == "excluded flag set (mask=0x808, flags=0x10049)"


@every_version
def test_d2_a_default_route_selects_it(version: Version) -> None:
    assert selected([lo(), VETH0, VETH1], version, routes=["default via 192.168.0.254 dev veth0"]) == {"veth0"}


@every_version
def test_d3_a_bond_is_selected_and_its_port_is_not(version: Version) -> None:
    port = replace(VETH0, master=4, slave=True)
    bond = link("bond0", 4, "192.168.2.1/24", kind="bond")
    found = decisions([lo(), port, bond], version)
    assert {name for name, device in found.items() if device.selected} == {"bond0"}
    assert found["veth0"].reason == "excluded flag set (mask=0x808, flags=0x11843)"


@every_version
def test_d5_neither_a_bridge_nor_its_port_is_selected(version: Version) -> None:
    port = link("veth0", 2, "192.168.0.1/24", master=4)  # the type of a bridge's port is `device`
    bridge = link("br0", 4, "192.168.3.1/24", kind="bridge")
    found = decisions([port, bridge], version)
    assert found["veth0"].reason == "bridged or bonded to ifindex 4"
    assert found["br0"].reason == "bridge-like device, use --devices to override"


WILDCARD = [
    link("dummy0", 2, "192.168.0.1/24", kind="dummy"),
    link("nonviable", 3, "192.168.1.1/24", kind="dummy"),
    link("eth0", 4, "192.168.2.1/24"),
    link("dummy1", 5, kind="dummy", up=False),
]


@every_version
def test_d6_a_prefix_selects_what_it_names(version: Version) -> None:
    found = decisions(WILDCARD, version, devices="dummy+")
    # D6': from 1.19 on also what has no address and is down.
    assert {name for name in found if found[name].selected} == {"dummy0"} | ({"dummy1"} if version >= V19 else set())
    assert found["eth0"].reason == "not matching user filter [dummy+]"


@every_version
def test_d7_force_adds_detection_to_the_list(version: Version) -> None:
    links = [lo(), *WILDCARD[:1], link("dummy1", 5, "192.168.4.1/24", kind="dummy"), WILDCARD[2]]
    assert selected(links, version, devices="dummy+", force_device_detection=True) == {"dummy0", "dummy1", "eth0"}


REVERSE = [link(name, index, f"192.168.{index}.1/24") for index, name in enumerate(["dummy0", "dummy1"], 2)]
REVERSE += [link(name, index, f"192.168.{index}.1/24") for index, name in enumerate(["dummy-ex0", "nonviable"], 4)]


@versions(*FROM_1_19)
def test_d8_the_first_entry_that_matches_wins(version: Version) -> None:
    found = decisions(REVERSE, version, devices="!dummy-ex+,!dummy1,dummy+,!dummy0")
    assert {name for name in found if found[name].selected} == {"dummy0"}
    assert found["dummy1"].rule is Rule.EXCLUDED_BY_LIST
    assert found["dummy1"].not_selected_reason == ""  # the agent gives none
    assert "!dummy1" in found["dummy1"].reason


@versions(*UP_TO_1_18)
def test_an_exclamation_mark_is_a_name_that_nobody_has(version: Version) -> None:
    """x8, and D8 before 1.19: only the positive entry counts."""
    assert selected(REVERSE, version, devices="!dummy1") == set()
    assert selected(REVERSE, version, devices="!dummy-ex+,!dummy1,dummy+,!dummy0") == {"dummy0", "dummy1", "dummy-ex0"}


@every_version
def test_an_exclusion_includes_nothing(version: Version) -> None:
    assert selected(REVERSE, version, devices="!dummy1") == set()


@versions(*FROM_1_19)
def test_an_exclusion_with_force_is_detection_without_it(version: Version) -> None:
    assert selected(REVERSE, version, devices="!dummy1", force_device_detection=True) == {
        *("dummy0", "dummy-ex0", "nonviable")
    }
    assert selected([*REVERSE, lo()], version, devices="!dummy1,lo", force_device_detection=True) >= {"lo"}


@every_version
def test_d9_down_is_not_selected(version: Version) -> None:
    found = decisions([link("dummy0", 2, "192.168.0.1/24", kind="dummy", up=False)], version)
    assert found["dummy0"].reason == "missing required flag (mask=0x1, flags=0x1002)"


@every_version
def test_d10_two_addresses_and_a_default_route(version: Version) -> None:
    device = link("dummy1", 3, "192.168.1.1/24", "192.168.1.2/24", kind="dummy")
    assert selected([device], version, routes=["default via 192.168.1.254 dev dummy1"]) == {"dummy1"}


X1 = [
    (link("eth0", 2, "10.0.0.1/24"), None),
    (link("eth1", 3, "10.0.1.1/24"), None),
    (link("eth2", 4, "10.0.2.1/32"), None),
    (link("eth3", 5, "2001:db8::1/64"), None),
    (link("mac0", 6, "10.0.3.1/24", kind="macvlan"), None),
    (link("vx0", 7, "10.0.4.1/24", kind="vxlan"), None),
    (link("eth4", 8), Rule.NO_ADDRESSES),
    (link("eth5", 9, "10.0.5.1/24", up=False), Rule.NOT_UP),
    (link("eth6", 10, "fe80::1/64"), Rule.NO_GLOBAL_ROUTE),
    (link("eth7", 11, "169.254.7.1/16"), Rule.NO_GLOBAL_ROUTE),
    *(
        (link(name, index, f"10.0.{index}.1/24"), Rule.EXCLUDED_PREFIX)
        for index, name in enumerate(["docker0", "cni0", "lxcabc", "lowan0", "cilium_x"], 20)
    ),
    (link("br0", 30, "10.0.30.1/24", kind="bridge"), Rule.BRIDGE_LIKE),
    (link("ovs0", 31, "10.0.31.1/24", kind="openvswitch"), Rule.BRIDGE_LIKE),
    (link("ib0", 32, "10.0.32.1/24", kind="ipoib"), Rule.IPOIB),
    (link("port", 33, "10.0.33.1/24", master=30), Rule.BRIDGED_OR_BONDED),
]


@every_version
@pytest.mark.parametrize(("device", "rule"), X1, ids=[device.name for device, _ in X1])
def test_x1_detection(device: Link, rule: Rule | None, version: Version) -> None:
    """An up NIC with one global unicast address is enough; private ones count, link-local ones do not."""
    found = decisions([device for device, _ in X1], version)[device.name]
    assert found.rule is (rule or Rule.DETECTED)
    assert found.selected == (rule is None)


def test_the_words_of_the_prefix_are_the_agents() -> None:
    assert decisions([link("lowan0", 2, "10.0.0.1/24")], V18)["lowan0"].reason == 'excluded prefix "lo"'
    assert decisions([link("cilium_x", 2, "10.0.0.1/24")], V18)["cilium_x"].reason == 'excluded prefix "cilium_"'


@every_version
@pytest.mark.parametrize(
    ("routes", "chosen"),
    [
        ([], set()),
        (["default via 10.0.0.254 dev eth0 table 100"], set()),
        (["0.0.0.0/1 via 10.0.0.254 dev eth0", "128.0.0.0/1 via 10.0.0.254 dev eth0"], set()),
        (["default via 2001:db8::fe dev eth0"], {"eth0"}),
        (
            ["default via 10.0.0.254 dev eth0 metric 100", "default via 10.0.1.254 dev eth1 metric 200"],
            {"eth0", "eth1"},
        ),
        (["default dev eth1"], {"eth1"}),
        # x3: a route of several hops has no RTA_OIF, and belongs to no device.
        (["default nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1"], set()),
    ],
    ids=["none", "table-100", "halves", "ipv6", "metrics", "device", "ecmp"],
)
def test_x2_x3_the_default_route_of_a_veth(routes: list[str], chosen: set[str], version: Version) -> None:
    links = [
        link("eth0", 2, "10.0.0.1/24", "2001:db8::1/64", kind="veth"),
        link("eth1", 3, "10.0.1.1/24", kind="veth"),
    ]
    assert selected(links, version, routes=routes) == chosen


@every_version
def test_x6_what_is_listed_passes_every_other_test(version: Version) -> None:
    links = [
        *(lo(), link("br0", 2, "10.0.0.1/24", kind="bridge"), link("docker0", 3, "10.0.3.1/24", kind="bridge")),
        *(link("eth8", 4, "10.0.4.1/24", master=2), link("eth0", 5, "10.0.5.1/24", kind="veth")),
    ]
    assert selected(links, version, devices="br0,docker0,eth8,lo,eth0") == {"br0", "docker0", "eth8", "lo", "eth0"}


@every_version
def test_x7_force_with_a_list_spares_veths_the_default_route(version: Version) -> None:
    """The root of cilium issue 37425: without a list the same veth is out."""
    links = [link("eth0", 2, "10.0.0.1/24", kind="veth")]
    assert selected(links, version, devices="nomatch", force_device_detection=True) == {"eth0"}
    assert selected(links, version, force_device_detection=True) == set()


@every_version
def test_a_list_does_not_fall_back_to_detection_and_does_not_force_in_the_node_ip(version: Version) -> None:
    links = [link("eth0", 2, "10.0.0.1/24"), link("eth1", 3, "10.0.1.1/24")]
    assert selected(links, version, devices="eth9") == set()
    assert selected(links, version, devices="eth1") == {"eth1"}


@every_version
@pytest.mark.parametrize("up", [True, False], ids=["no-address", "down"])
def test_the_list_comes_before_the_address_and_up_tests_from_1_19_on(up: bool, version: Version) -> None:
    device = link("eth0", 2, *([] if up else ["10.0.0.1/24"]), up=up)
    found = decisions([device], version, devices="eth0")["eth0"]
    assert found.selected == (version >= V19)
    if version < V19:
        assert found.rule is (Rule.NO_ADDRESSES if up else Rule.NOT_UP)


@every_version
def test_what_is_not_listed_and_has_no_address(version: Version) -> None:
    """The order of the two tests shows in the words."""
    reason = decisions([link("eth1", 2)], version, devices=["eth0", "eth2"])["eth1"].reason
    assert reason == ("device has no addresses" if version < V19 else "not matching user filter [eth0 eth2]")


@every_version
def test_a_vrfs_port_is_eligible_from_1_20_on(version: Version) -> None:
    links = [link("eth0", 2, "10.0.0.1/24", master=3), link("vrf0", 3, "10.0.1.1/24", kind="vrf")]
    found = decisions(links, version)["eth0"]
    assert found.selected == (version >= V20)
    assert found.reason.startswith("auto-detected" if version >= V20 else "bridged or bonded to ifindex 3")


@every_version
def test_a_parent_that_is_not_known(version: Version) -> None:
    """It may live in another network namespace."""
    found = decisions([link("eth0", 2, "10.0.0.1/24", master=9)], version)["eth0"]
    words = "device has parent but parent device could not be found: 9"
    assert found.reason == (words if version >= V20 else "bridged or bonded to ifindex 9")


@every_version
def test_alternative_names_match_from_1_20_on(version: Version) -> None:
    device = replace(link("enp3s0", 2, "10.0.0.1/24"), altnames=("storage", "enx0242"))
    assert selected([device], version, devices="storage") == ({"enp3s0"} if version >= V20 else set())
    assert selected([device], version, devices="sto+") == ({"enp3s0"} if version >= V20 else set())


@versions(*FROM_1_20)
def test_the_own_name_counts_before_an_alternative_one(version: Version) -> None:
    device = replace(link("enp3s0", 2, "10.0.0.1/24"), altnames=("storage",))
    assert selected([device], version, devices="!storage,enp+") == {"enp3s0"}
    assert selected([device], version, devices="!storage,eth0") == set()


@every_version
@pytest.mark.parametrize("flag", ["tentative", "dadfailed"])
def test_an_address_that_is_not_usable_yet_does_not_count_from_1_20_on(flag: str, version: Version) -> None:
    (address,) = addresses("2001:db8::1/64")
    waiting = replace(address, tentative=flag == "tentative", dadfailed=flag == "dadfailed")
    found = decisions([Link("eth0", 2, "device", addresses=(waiting,))], version)["eth0"]
    assert found.rule is (Rule.NO_ADDRESSES if version >= V20 else Rule.DETECTED)


@every_version
def test_a_link_whose_name_is_not_known_yet(version: Version) -> None:
    assert decisions([link("", 2, "10.0.0.1/24")], version)[""].reason == "link not seen yet"


def test_the_order_of_the_rules() -> None:
    """Numbers are places in the version's order; the reference's for 1.18 and later for a veth: rule 8."""
    assert [Rule.VETH_WITHOUT_DEFAULT_ROUTE.number(version) for version in VERSIONS] == [8] * 6
    assert (Rule.NO_ADDRESSES.number(V18), Rule.NOT_LISTED.number(V18)) == (2, 4)
    assert (Rule.NO_ADDRESSES.number(V19), Rule.NOT_LISTED.number(V19)) == (3, 2)
    assert Rule.DETECTED.number(V16) == 11
    for version in VERSIONS:
        assert {rule for rules in order(version) for rule in rules} == set(Rule)


@every_version
def test_every_rule_says_where_cilium_has_it(version: Version) -> None:
    for rule in Rule:
        assert "isSelectedDevice" in rule.source
        assert rule.number(version) >= 1


@every_version
@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("eth0,eth1", {"eth0", "eth1"}),
        ("eth0 eth1", {"eth0", "eth1"}),
        ("eth0  \teth1", {"eth0", "eth1"}),
        ("eth0 eth1,eth2", {"eth2"}),
        ("eth0, eth1", {"eth0"}),
        ("eth+", {"eth0", "eth1", "eth2"}),
        ("eth++", {"eth0", "eth1", "eth2"}),
        ("+", {"eth0", "eth1", "eth2"}),
        ("eth*", set()),
        ("eth[01]", set()),
        (",", set()),
    ],
)
def test_how_the_list_is_read(text: str, chosen: set[str], version: Version) -> None:
    """Commas split; one single element is split again by whitespace. `+` at the end is a prefix, nothing else is."""
    links = [link(f"eth{number}", number + 2, f"10.0.{number}.1/24") for number in range(3)]
    assert selected(links, version, devices=text) == chosen


@pytest.mark.parametrize(
    ("devices", "version", "words"),
    [
        ("eth0", V18, ""),
        ("eth+ cilium_wg0", V18, ""),
        ("ens+", V18, "devices: ens+ matches no NIC of any of 2 nodes (eth0, eth1)"),
        ("eth*", V20, "write eth+"),
        ("^eth.*", V20, "write eth+"),
        ("eth[01]", V20, "write eth+"),
        ("eth.+", V20, "write eth+"),
        ("*", V20, "write a prefix, as eth+"),
        (
            "eth0 eth1,eth2",
            V20,
            "devices: eth0 eth1 matches no NIC of any of 2 nodes (eth0, eth1): a list has commas or",
        ),
        (
            "eth0\u200b",
            V20,
            "devices: 'eth0\\u200b' matches no NIC of any of 2 nodes (eth0, eth1): there is a hidden U+200B",
        ),
        ("eth0,\u00a0eth1", V20, "there is a hidden U+00A0 in it"),
        ("{eth0,eth1}", V20, "write eth0"),
        ("Eth0", V20, "did you mean eth0?"),
        ("eht1", V20, "did you mean eth1?"),
        ("eth9", V20, "devices: eth9 matches no NIC of any of 2 nodes (eth0, eth1)"),
        ("qq", V20, "devices: qq matches no NIC of any of 2 nodes (eth0, eth1)"),
        ("eth0,!eth1", V18, "`!` excludes from 1.19 on"),
        ("eth0,!eth1", V19, ""),
        ("eth0,!eth7", V19, "devices: !eth7 matches no NIC"),
    ],
)
def test_entries_that_name_no_nic(devices: str, version: Version, words: str) -> None:
    nodes = {name: (view(devices=devices), ["eth0", "eth1"]) for name in ("node1", "node2")}
    found = [*unmatched(nodes, version)]
    assert words in "".join(found)
    assert bool(words) == bool(found)


def test_nodes_with_different_nics_share_a_list() -> None:
    nodes = {"node1": (view(devices="eth0 ens5"), ["eth0"]), "node2": (view(devices="eth0 ens5"), ["ens5"])}
    assert [*unmatched(nodes, V20)] == []
    nodes["node3"] = (view(devices="eth0 ens5"), ["enp1s0"])
    assert [*unmatched(nodes, V20)] == ["devices: none of eth0, ens5 is a NIC of node3 (enp1s0)"]
