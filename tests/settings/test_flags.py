"""Flags as people type them."""

from __future__ import annotations

import pytest
from niclab.errors import InputError
from niclab.settings import Settings, flags
from niclab.settings.formats import loads, parse_assignments, parse_node_assignments


def problems(text: str, name: str = "flags") -> list[tuple[int, str, str, str]]:
    with pytest.raises(InputError) as caught:
        loads(text, name=name)
    return [(problem.line, problem.field, problem.why, problem.fix) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("enable-ipv6=false", "enable-ipv6"),
        ("--enable-ipv6=false", "enable-ipv6"),
        ("enable_ipv6=false", "enable-ipv6"),
        ("CILIUM_ENABLE_IPV6=false", "enable-ipv6"),
        ("enableIpv6=false", "enable-ipv6"),
        ("forceDeviceDetection=false", "force-device-detection"),
        (" enable-ipv6=false", "enable-ipv6"),
    ],
)
def test_spellings_of_a_key(word: str, key: str) -> None:
    assert parse_assignments([word]).values == {key: "false"}


def test_a_value_is_kept_whole() -> None:
    assert parse_assignments(["devices=eth0 eth1"]).for_node("n").devices == ("eth0", "eth1")
    assert parse_assignments(["labels=k8s:app=web"]).values == {"labels": "k8s:app=web"}
    assert parse_assignments(["devices="]).values == {"devices": ""}
    assert parse_assignments(["devices=eth0", "devices=eth1"]).values == {"devices": "eth1"}
    assert parse_assignments([]) == Settings()


@pytest.mark.parametrize("word", ["devices", "=eth0", "", "devices eth0", "node1:devices=eth0"])
def test_what_is_no_assignment(word: str) -> None:
    with pytest.raises(InputError, match=r"--set: .*is not KEY=VALUE"):
        parse_assignments([word])


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("divices=eth0", "did you mean devices?"),
        ("routing-mod=native", "did you mean routing-mode?"),
        ("bpf.masquerad=true", "did you mean bpf.masquerade?"),
        ("qqqqqqqqqq=1", "see cilium-agent --help"),
        ("cluster-pool-ipv4-cidr=10.0.0.0/8", "leave it out"),
    ],
)
def test_a_key_no_agent_has(word: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_assignments([word])
    assert fix in caught.value.problems[0].fix


def test_every_bad_assignment_is_told() -> None:
    with pytest.raises(InputError) as caught:
        parse_assignments(["divices=eth0", "enable-ipv6=maybe", "mtu=9000"], file="--set")
    assert [problem.field for problem in caught.value.problems] == ["divices", "enable-ipv6"]
    assert str(caught.value).startswith("--set: divices: no Cilium agent has this key")


@pytest.mark.parametrize(
    ("value", "fine"), [("link", True), ("253", True), ("snat", False), ("256", False), ("", False)]
)
def test_a_scope_is_a_word_or_a_number(value: str, fine: bool) -> None:
    """pkg/ip/ip_scope_linux.go ParseScope"""
    assert (flags.wrong("local-max-addr-scope", value) is None) == fine


def test_node_assignments() -> None:
    settings = parse_node_assignments(["node1:ipv4-node=10.0.1.1", "node2:devices=eth1", "node1:devices=eth0"])
    assert settings.for_node("node1").ipv4_node == "10.0.1.1"
    assert settings.for_node("node1").devices == ("eth0",)
    assert settings.for_node("node2").devices == ("eth1",)
    assert settings.for_node("node3").devices == ()
    assert parse_node_assignments(["node1:ipv6-node=fd00::1"]).for_node("node1").ipv6_node == "fd00::1"


@pytest.mark.parametrize("word", ["devices=eth0", "node1", "node1:devices", ":devices=eth0"])
def test_what_is_no_node_assignment(word: str) -> None:
    with pytest.raises(InputError, match=r"--node-set: .*is not NODE:KEY=VALUE"):
        parse_node_assignments([word])


def test_a_bad_value_of_a_node_names_the_node() -> None:
    with pytest.raises(InputError) as caught:
        parse_node_assignments(["node1:mtu=big"])
    assert caught.value.problems[0].field == "node1:mtu"


def test_a_flags_file() -> None:
    text = """\
# the lab's
devices=eth0,eth1      # both
--enable-ipv6=false
--routing-mode native --auto-direct-node-routes
--direct-routing-device="eth0" \\
labels="k8s:app #1"
api-rate-limit='a b'
node1:ipv4-node=10.0.1.1

mtu =9000
"""
    settings = loads(text.replace("mtu =", "mtu="), name="flags")
    assert settings.values == {
        "api-rate-limit": "a b",
        "auto-direct-node-routes": "true",
        "devices": "eth0,eth1",
        "direct-routing-device": "eth0",
        "enable-ipv6": "false",
        "labels": "k8s:app #1",
        "mtu": "9000",
        "routing-mode": "native",
    }
    assert settings.for_node("node1").ipv4_node == "10.0.1.1"
    assert settings.base == "lab"
    assert settings.warnings == ()


def test_an_agents_command_line() -> None:
    settings = loads("cilium-agent --devices='eth0 eth1' --enable-bpf-masquerade --mtu 1400", name="ps")
    assert settings.values == {"devices": "eth0 eth1", "enable-bpf-masquerade": "true", "mtu": "1400"}


def test_problems_of_a_flags_file_have_lines() -> None:
    found = problems("devices=eth0\n# comment\ndivices=eth1\nenable-ipv6=maybe\n")
    assert [(line, field) for line, field, _, _ in found] == [(3, "divices"), (4, "enable-ipv6")]
    assert problems("--mtu\n--enable-tcx --devices") == [
        (1, "mtu", "the flag has no value", "write --mtu=value"),
        (2, "devices", "the flag has no value", "write --devices=value"),
    ]
    found = problems("--devices=eth0 oops\n--mtu='1\nwhat is this\n")
    assert [line for line, *_ in found] == [1, 2, 3]


def test_a_mapping_of_flags() -> None:
    text = '{"devices": ["eth0", "eth1"], "enable-ipv6": false, "mtu": 9000, "routing-mode": "native"}'
    settings = loads(text, name="run.json")
    assert settings.values == {
        "devices": "eth0,eth1",
        "enable-ipv6": "false",
        "mtu": "9000",
        "routing-mode": "native",
    }
    assert settings.base == "lab"


def test_problems_of_a_mapping_of_flags_have_lines() -> None:
    found = problems("enable-ipv6: false\nroutin-mode: native\nmtu: big\nipv4-node:\n  a: 1\n", "f.yaml")
    assert [(line, field) for line, field, _, _ in found] == [(2, "routin-mode"), (3, "mtu"), (4, "ipv4-node")]
