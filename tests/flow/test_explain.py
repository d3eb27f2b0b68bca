"""`niclab explain`: the decisions of every flow, in words and as JSON, without a kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from niclab.cilium.refusals import fix
from niclab.cilium.selection.direct_routing import NO_DEVICES
from niclab.cli import COULD_NOT_RUN, FAIL, PASS
from niclab.report.predicted import Explanation

from tests.support.command import here
from tests.support.golden_files import assert_golden

COMMITTED = Path(__file__).parents[2] / "lab" / "niclab" / "schemas" / "explain.schema.json"
NATIVE = ("routing-mode=native", "ipv4-native-routing-cidr=10.244.0.0/16", "auto-direct-node-routes=true")


def told(*settings: str) -> list[str]:
    return [word for one in settings for word in ("--set", one)]


def explained(*words: str) -> dict[str, Any]:
    done = here("explain", *words, "-o", "json")
    assert done.status == PASS, done.err
    found: dict[str, Any] = json.loads(done.out)
    jsonschema.validate(found, json.loads(COMMITTED.read_text()))
    return found


def rules(flow: dict[str, Any], kind: str = "request") -> list[tuple[str, str]]:
    (way,) = flow["ways"]
    return [(step["where"], step["rule"]) for step in way[kind]["steps"]]


def test_the_committed_schema_is_fresh() -> None:
    hint = "run: niclab validate --schema explain > lab/niclab/schemas/explain.schema.json"
    assert COMMITTED.read_text() == Explanation.contract("niclab explain"), hint
    jsonschema.Draft202012Validator.check_schema(json.loads(Explanation.contract("niclab explain")))


def test_what_a_person_reads() -> None:
    flows = ("pod1 -> pod2", "pod1 -> ext1", "ext1 -> pod1")
    words = [word for flow in flows for word in ("--flow", flow)]
    done = here("explain", "two-nic", *told("devices=eth0"), *words)
    assert (done.status, done.err) == (PASS, "")
    assert_golden("explain-two-nic.txt", done.out)


def test_the_chain_of_a_leak() -> None:
    """The sentence people came for: why ext1 sees the pod's own address."""
    (flow,) = explained("two-nic", *told("devices=eth0"), "--flow", "pod1 -> ext1")["flows"]
    (way,) = flow["ways"]
    assert way["verdict"] == "carried"
    assert [one["nic"] for one in way["request"]["left_by"]] == ["node1.eth1"]
    assert (way["request"]["arrived"], way["request"]["source"]) == ("ext1", "10.244.1.10")
    chain = way["chain"].split(" → ")
    assert chain[0].startswith("10.0.1.100: by the route 10.0.1.0/24 dev eth1")
    assert chain[1] == "leaves by eth1, which is not selected: not matching user filter [eth0] (rule 2)"
    assert chain[2].startswith("not masqueraded: eth1 is not selected")
    assert chain[3] == "ext1 sees the source 10.244.1.10, pod1's own"
    assert chain[4] == "back by ext1.eth0"


def test_the_single_device_of_1_18() -> None:
    (flow,) = explained("two-nic", *told("devices=eth0"), "--cilium-version", "1.18", "--flow", "pod1 -> ext1")["flows"]
    assert "eth0 is the only selected device" in str(flow)
    assert rules(flow)[:3] == [("node1", "fib.skipped"), ("node1", "device.selected"), ("node1", "masquerade.bpf")]
    assert "ext1 has no route to 10.0.0.1" in flow["ways"][0]["reply"]["lost"]
    assert flow["ways"][0]["verdict"] == "lost"


def test_the_tunnel_and_the_route_to_the_node_ip() -> None:
    (flow,) = explained("two-nic", *told("devices=eth1"), "--flow", "pod1 -> pod2")["flows"]
    assert [rule for _, rule in rules(flow)][:4] == ["tunnel.pod-cidr", "route", "tunnel.outer", "device.not-selected"]
    outer = flow["ways"][0]["request"]["steps"][2]
    assert outer["inputs"] == {"protocol": "vxlan", "source": "10.0.0.1", "remote": "10.0.0.2"}
    assert flow["ways"][0]["request"]["left_by"][0]["outer"] == ["10.0.0.1", "10.0.0.2"]


def test_direct_node_routes_and_node_ips_in_native_routing() -> None:
    flows = ["--flow", "pod1 -> pod2", "--flow", "pod1 -> node2.eth0", "--flow", "node2.eth1 -> pod1"]
    pods, node, back = explained("two-nic", *told(*NATIVE, "devices=eth+"), *flows)["flows"]
    assert rules(pods)[:3] == [
        ("node1", "route.direct-node-route"),
        ("node1", "device.selected"),
        ("node1", "masquerade.native-cidr"),
    ]
    assert ("node1", "masquerade.remote-node") in rules(node)
    assert ("node1", "nat.answer") in rules(back, "reply")


def test_every_way_of_a_multipath_route() -> None:
    words = told(*NATIVE[:2], "devices=eth+")
    for node, peer in ((1, 2), (2, 1)):
        hops = f"nexthop via 10.0.0.{peer} dev eth0 nexthop via 10.0.1.{peer} dev eth1"
        words += ["--route", f"node{node}: 10.244.{peer}.0/24 {hops}"]
    (flow,) = explained("two-nic", *words, "--flow", "pod1 -> pod2")["flows"]
    ways = {
        (way["request"]["left_by"][0]["nic"], way["reply"]["left_by"][0]["nic"]): way["request"]["steps"][0]
        for way in flow["ways"]
    }
    assert set(ways) == {(f"node1.{out}", f"node2.{back}") for out in ("eth0", "eth1") for back in ("eth0", "eth1")}
    step = ways["node1.eth1", "node2.eth0"]
    assert step["rule"] == "route.multipath"
    assert (step["inputs"]["hop"], step["inputs"]["hops"]) == (
        "via 10.0.1.2 dev eth1",
        "via 10.0.0.2 dev eth0, via 10.0.1.2 dev eth1",
    )
    done = here("explain", "two-nic", *words, "--expect", "pod1 -> pod2=eth1")
    assert done.status == FAIL
    assert "pod1 → pod2: carried (4 of 4: chance decides)" in done.out
    assert "predicted to leave by node1.eth0 or node1.eth1" in done.err


def test_an_agent_that_exits_and_what_to_set() -> None:
    found = explained("two-nic", *told("devices=eth9"), "--flow", "pod1 -> ext0")
    node = found["nodes"]["node1"]
    assert node["agent_exits"].startswith("unable to determine direct routing device")
    assert "direct-routing-device" in node["fix"]
    (flow,) = found["flows"]
    assert (flow["ways"], flow["not_sent"].partition(":")[0]) == ([], "pod1 is not plugged")
    assert fix("words that nobody knows") == ""


@pytest.mark.parametrize(
    "refused",
    [
        ("auto-direct-node-routes=true",),
        ("routing-mode=native",),
        ("enable-ipv4-masquerade=false", "enable-ipv6-masquerade=false"),
        ("enable-masquerade-to-route-source=true",),
        ("egress-masquerade-interfaces=eth0",),
        ("enable-ipv4=false", "enable-ipv6=false"),
        ("enable-wireguard=true", "enable-ipsec=true"),
    ],
)
def test_every_refusal_says_what_to_set(refused: tuple[str, ...]) -> None:
    node = explained("two-nic", *told(*refused))["nodes"]["node1"]
    assert node["agent_exits"] and node["exits_in"] and node["fix"]


def test_what_chose_the_direct_routing_device_and_what_is_warned_of() -> None:
    node = explained("two-nic", *told("devices=eth0"), "--flow", "pod1 -> ext1")["nodes"]["node1"]
    assert node["direct_routing_rule"] == "direct-routing.only-device"
    assert node["direct_routing_source"] == "pkg/datapath/tables/direct_routing_device.go Get"
    assert node["warnings"] == []
    nothing = "kube-proxy-replacement=false", "enable-bpf-masquerade=false", "enable-host-legacy-routing=true"
    words = ["two-nic", *told("devices=eth9", *nothing), "--cilium-version", "1.16", "--flow", "pod1 -> ext1"]
    node = explained(*words)["nodes"]["node1"]
    assert node["direct_routing_rule"] == "direct-routing.not-needed"
    words[words.index("1.16")] = "1.17"
    node = explained(*words)["nodes"]["node1"]
    assert (node["direct_routing_rule"], node["warnings"]) == ("direct-routing.not-found", [NO_DEVICES])


def test_expectations() -> None:
    words = ["two-nic", *told("devices=eth0"), "--expect"]
    assert here("explain", *words, "pod1 -> ext1=eth1").status == PASS
    done = here("explain", *words, "pod1 -> ext1=eth0")
    assert (done.status, done.err) == (
        FAIL,
        "pod1 -> ext1 must leave node1 by eth0, it is predicted to leave by node1.eth1\n",
    )
    assert here("explain", *words, "pod1 -> ext1=eth7").status == COULD_NOT_RUN
    exits = here("explain", "two-nic", *told("devices=eth9"), "--expect", "pod1 -> ext1=eth1")
    assert exits.status == FAIL
    assert "is not sent: pod1 is not plugged" in exits.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "are of no effect: enable-egress-gateway is off"),
        (
            ["--set", "enable-egress-gateway=true", "--node-set", "node2:enable-egress-gateway=false"],
            "effect on node2: ",
        ),
        (["--set", "enable-egress-gateway=true"], ""),
    ],
)
def test_egress_policies_without_the_feature(settings: list[str], words: str) -> None:
    done = here("explain", "egress-gateway", *settings, "--flow", "pod2 -> ext1")
    assert done.status == PASS
    assert words in done.err and ("egress policies (by-nic, " in done.err) == bool(words)


def test_what_the_model_does_not_know_is_told() -> None:
    done = here("explain", "two-nic", *told("enable-ipsec=true"), "--flow", "pod1 -> ext0")
    assert done.status == PASS
    assert "not modelled: " in done.err
