"""Cilium's reading of values: lists, booleans, CIDRs, choices."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.errors import InputError, closest
from niclab.settings import LAB_BASELINE, Settings
from niclab.settings.flags import Values, complaint, parse_bool, parse_cidr, split_list


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("eth0", ("eth0",)),
        ("eth0,eth1", ("eth0", "eth1")),
        ("eth0 eth1", ("eth0", "eth1")),
        ("  eth0\teth1\n", ("eth0", "eth1")),
        ("eth+", ("eth+",)),
        ("   ", ()),
        # Commas take precedence, and then nothing is trimmed: these names no device has.
        ("eth0 eth1,eth2", ("eth0 eth1", "eth2")),
        ("eth0, eth1", ("eth0", " eth1")),
        ("eth0,", ("eth0", "")),
        ("!eth1,eth+", ("!eth1", "eth+")),
    ],
)
def test_a_list_is_split_as_the_agent_splits_it(text: str, names: tuple[str, ...]) -> None:
    assert split_list(text) == names
    assert Settings.of(devices=text).for_node("n").devices == names


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "no", "tRUE", " true", "2", "maybe"])
def test_no_boolean(text: str) -> None:
    assert parse_bool(text) is None


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.244.0.0/16", "10.244.0.0/16"),
        ("10.244.1.7/16", "10.244.0.0/16"),
        ("fd00::1/104", "fd00::/104"),
        ("10.0.0.1", None),
        ("10.0.0.0/255.0.0.0", None),
        ("10.0.0.0/33", None),
        ("pods", None),
        ("", None),
    ],
)
def test_cidrs(text: str, network: str | None) -> None:
    found = parse_cidr(text)
    assert (str(found) if found else None) == network


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("enable-ipv6", "maybe", "write true or false"),
        ("enable-ipv6", "yes", "write true"),
        ("enable-ipv6", "flase", "write false"),
        ("force-device-detection", "", "write true or false"),
        ("routing-mode", "foo", "write tunnel"),
        ("routing-mode", "nativ", "write native"),
        ("routing-mode", "Native", "write native"),
        ("tunnel-protocol", "vxlna", "write vxlan"),
        ("tunnel-protocol", "disabled", "write vxlan"),
        ("ipam", "kubernets", "write kubernetes"),
        ("kube-proxy-replacement", "strickt", "write strict"),
        ("mtu", "big", "write a number, 0 for auto-detection"),
        ("mtu", "-1", "write a number, 0 for auto-detection"),
        ("mtu", "1500 ", "write a number, 0 for auto-detection"),
        ("tunnel-port", "70000", "write a number, 0 for the protocol's own port"),
        ("ipv4-native-routing-cidr", "10.0.0.0", "write 10.0.0.0/32"),
        ("ipv4-native-routing-cidr", "none", "write a CIDR such as 10.244.0.0/16"),
        ("ipv6-native-routing-cidr", "none", "write a CIDR such as fd00::/104"),
        ("ipv4-native-routing-cidr", "fd00::/104", "write an IPv4 CIDR"),
        ("ipv4-node", "10.0.0.1/24", "write the node's address, without a mask"),
        ("ipv4-node", "fd00::1", "write it as ipv6-node"),
        ("nodeport-addresses", "10.0.0.0/8,oops", "write a CIDR such as 10.244.0.0/16"),
        ("bpf-lb-mode", "drs", "write dsr"),
    ],
)
def test_a_bad_value_is_an_error_with_the_nearest_valid_one(key: str, value: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings(Values({key: value}))
    (problem,) = caught.value.problems
    assert problem.field == key
    assert problem.fix == fix
    assert repr(value.rsplit(",", maxsplit=1)[-1]) in problem.why


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("enable-ipv6", "True"),
        ("kube-proxy-replacement", "strict"),
        ("kube-proxy-replacement", "1"),
        ("mtu", "0"),
        ("mtu", "9000"),
        ("ipv4-native-routing-cidr", ""),
        ("ipv4-node", "auto"),
        ("ipv6-node", "fd00::1"),
        ("nodeport-addresses", "10.0.0.0/8 fd00::/64"),
        ("devices", "anything at all"),
        ("labels", "maybe"),
    ],
)
def test_good_values(key: str, value: str) -> None:
    assert complaint(key, value) is None


def test_the_closest_word() -> None:
    assert closest("devicse", ["devices", "labels"]) == "devices"
    assert closest("xyz", ["devices"]) is None


def test_values_are_immutable_sorted_and_hashable() -> None:
    values = Values({"b": "2", "a": "1"})
    assert list(values) == ["a", "b"]
    assert hash(values) == hash(Values({"a": "1", "b": "2"}))
    assert values == {"a": "1", "b": "2"}
    assert values.over({"b": "3"}) == {"a": "1", "b": "3"}
    assert values == Values({"a": "1", "b": "2"})
    with pytest.raises(TypeError):
        values["a"] = "3"  # type: ignore[index]
    assert pickle.loads(pickle.dumps(LAB_BASELINE)) == LAB_BASELINE


@given(
    st.dictionaries(st.text(max_size=4), st.text(max_size=4)), st.dictionaries(st.text(max_size=4), st.text(max_size=4))
)
def test_values_over_is_a_dictionary_merge(lower: dict[str, str], upper: dict[str, str]) -> None:
    assert Values(lower).over(upper) == {**lower, **upper}


@given(st.text(alphabet="eth01,+ !", max_size=12))
def test_splitting_keeps_every_character_but_separators(text: str) -> None:
    joined = "".join(split_list(text)).replace(" ", "")
    assert joined == text.replace(",", "").replace(" ", "")
