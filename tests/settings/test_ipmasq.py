"""What the ip-masq-agent reads: a file or what would be in it, the defaults, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, InputError, Settings, Version, load
from niclab.cilium import masquerade
from niclab.cilium.decisions import Decisions
from niclab.net.packetrules import Exempt
from niclab.settings.ipmasq import DEFAULT_NETWORKS, DEFAULT_PATH, read


def networks(value: str) -> list[str]:
    return [str(network) for network in read(value).networks]


@pytest.mark.parametrize("value", ["", DEFAULT_PATH])
def test_told_nothing_it_lists_private_networks(value: str) -> None:
    assert networks(value) == [*map(str, DEFAULT_NETWORKS), "169.254.0.0/16", "fe80::/10"]
    assert read(value).text == ""


def test_an_empty_file_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("\n")
    assert networks(str(path))[0] == "10.0.0.0/8"


def test_a_file_and_what_would_be_in_it_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("nonMasqueradeCIDRs:\n- 10.0.1.7/24\n- fd00::/8\nmasqLinkLocal: true\n")
    inline = "{nonMasqueradeCIDRs: [10.0.1.7/24, 'fd00::/8'], masqLinkLocal: true}"
    assert networks(str(path)) == networks(inline) == ["10.0.1.0/24", "fd00::/8", "fe80::/10"]
    assert read(str(path)).text == path.read_text()
    # Agents take what begins with a brace for JSON.
    assert json.loads(read(inline).text)["masqLinkLocal"] is True


def test_a_list_of_nothing_asks_for_no_defaults() -> None:
    assert networks("{nonMasqueradeCIDRs: []}") == ["169.254.0.0/16", "fe80::/10"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/nowhere/config", "no such file"),
        ("{nonMasqueradeCIDRs: [", "while parsing"),
        ("{nonMasqueradeCIDRs: [10.0.1.0]}", "has no prefix length"),
        ("{nonMasqueradeCIDRs: [ten/8]}", "ten/8"),
        ("{nonMasqueradeCIDRs: 10.0.0.0/33}", "10.0.0.0/33"),
        ("/dev/null/config", "Not a directory"),
    ],
)
def test_what_is_wrong_is_said_with_how_to_mend_it(value: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        read(value)
    assert "ip-masq-agent-config-path" in str(caught.value)
    assert "nonMasqueradeCIDRs" in caught.value.problems[0].fix


def exempt(**told: str) -> list[str]:
    settings = LAB_BASELINE.merged(Settings.of(enable_ip_masq_agent=True, **told))
    found = Decisions(load("two-nic"), settings, Version(1, 20))
    rules = masquerade.rules(found, found.nodes["node1"])
    return [one.why.rule for one in rules if isinstance(one.action, Exempt)]


def test_it_is_ebpf_masquerading_that_asks_it() -> None:
    assert "masquerade.ip-masq-agent" in exempt()
    assert "masquerade.ip-masq-agent" not in exempt(enable_bpf_masquerade="false")


@pytest.mark.parametrize(
    ("text", "why"), [("- a\n- b\n", "it is no mapping"), ("{nonMasqueradeCIDRs: []}", "for JSON, and it is none")]
)
def test_a_file_that_agents_would_not_understand(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read(str(path))
