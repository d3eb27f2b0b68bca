"""ConfigMaps, CiliumNodeConfigs, lists of them, and the article's sketch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.errors import InputError
from niclab.settings import Settings
from niclab.settings.formats import load, loads

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels:
    app.kubernetes.io/managed-by: Helm
  name: cilium-config
  namespace: kube-system
  resourceVersion: "123"
data:
  agent-not-ready-taint-key: node.cilium.io/agent-not-ready
  auto-direct-node-routes: "true"
  bpf-lb-acceleration: disabled
  cilium-endpoint-gc-interval: 5m0s
  cluster-pool-ipv4-cidr: 10.0.0.0/8
  custom-cni-conf: "false"
  debug: "false"
  devices: eth0 eth1
  enable-bpf-masquerade: "true"
  enable-ipv6: "false"
  enable-node-port: "true"
  identity-gc-interval: 15m0s
  ipv4-native-routing-cidr: 10.244.0.0/16
  kube-proxy-replacement: "true"
  operator-api-serve-addr: 127.0.0.1:9234
  routing-mode: native
  sidecar-istio-proxy-image: cilium/istio_proxy
  tofqdns-proxy-port: "0"
  unmanaged-pod-watcher-interval: "15"
  write-cni-conf-when-ready: /host/etc/cni/net.d/05-cilium.conflist
"""

NODE_CONFIG = """\
apiVersion: cilium.io/v2
kind: CiliumNodeConfig
metadata:
  namespace: kube-system
  name: storage
spec:
  nodeSelector:
    matchLabels:
      role: storage
    matchExpressions:
      - {key: zone, operator: In, values: [a, b]}
  defaults:
    devices: eth0,eth2
    mtu: "9000"
"""

ARTICLE = """\
# Example cilium-config.yaml on a node
apiVersion: v2
kind: CiliumConfig
metadata:
  name: cilium-node-config
spec:
  ipam:
    mode: "kubernetes"
  tunnel:
    mode: "vxlan"
  devices:
    - eth0
    - eth1 # This line is crucial for multi-homing
"""


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(InputError) as caught:
        loads(text, name="in.yaml")
    assert all(problem.file == "in.yaml" and problem.why for problem in caught.value.problems)
    return [(problem.line, problem.field, problem.fix) for problem in caught.value.problems]


def test_a_config_map_is_a_whole_configuration() -> None:
    told = loads(CONFIG_MAP, name="cm.yaml")
    assert told.base == "cluster"
    view = told.for_node("node1")
    assert view.devices == ("eth0", "eth1")
    assert view.routing_mode == "native"
    assert view.auto_direct_node_routes
    assert view.kube_proxy_replacement
    assert not view.enable_ipv6
    assert told.values["enable-node-port"] == "true"


def test_what_others_read_is_left_out_and_said() -> None:
    told = loads(CONFIG_MAP, name="cm.yaml")
    (warning,) = told.warnings
    assert warning.startswith("cm.yaml: read by the operator or another component, not by the agent: ")
    named = "cilium-endpoint-gc-interval cluster-pool-ipv4-cidr custom-cni-conf identity-gc-interval "
    named += "operator-api-serve-addr sidecar-istio-proxy-image unmanaged-pod-watcher-interval"
    for key in named.split():
        assert key in warning
        assert key not in told.values
    for key in ("debug", "tofqdns-proxy-port", "agent-not-ready-taint-key"):
        assert key in told.values


def test_json_is_the_same() -> None:
    data = json.dumps(yaml.safe_load(CONFIG_MAP), indent="\t")
    assert loads(data, name="cm.json") == loads(CONFIG_MAP, name="cm.yaml")
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(CONFIG_MAP)]})
    assert loads(listed, name="l.json") == loads(CONFIG_MAP, name="cm.yaml")
    bare = json.dumps([yaml.safe_load(CONFIG_MAP), yaml.safe_load(NODE_CONFIG)])
    assert len(loads(bare, name="l.json").per_node) == 1


def test_a_file_of_several_documents() -> None:
    told = loads(f"---\n{CONFIG_MAP}---\n{NODE_CONFIG}---\n", name="all.yaml")
    assert told.base == "cluster"
    chosen = told.for_node("n", {"role": "storage", "zone": "b"})
    assert chosen.devices == ("eth0", "eth2")
    assert chosen.mtu == 9000
    for labels in ({"role": "storage"}, {"role": "storage", "zone": "c"}, {"zone": "a"}):
        assert told.for_node("n", labels).devices == ("eth0", "eth1")


def test_a_node_config_alone_comes_on_top_of_the_lab() -> None:
    told = loads(NODE_CONFIG, name="cnc.yaml")
    assert told.base == "lab"
    assert told.values == {}
    assert told.warnings == ()


def test_the_old_version_of_node_configs() -> None:
    told = loads(NODE_CONFIG.replace("cilium.io/v2", "cilium.io/v2alpha1"), name="cnc.yaml")
    assert told == loads(NODE_CONFIG, name="cnc.yaml")
    assert "v2alpha1 is the old version, write cilium.io/v2" in told.warnings[0]


def test_an_empty_selector_is_every_node_and_none_is_no_node() -> None:
    head = "apiVersion: cilium.io/v2\nkind: CiliumNodeConfig\nmetadata: {name: x}\nspec:\n  defaults: {mtu: '9000'}\n"
    assert loads(head + "  nodeSelector: {}\n", name="f").for_node("any").mtu == 9000
    none = loads(head, name="f")
    assert none.for_node("any").mtu == 0
    assert "applies to no node" in none.warnings[0]


def test_a_namespaces_dump_passes_over_what_holds_no_settings() -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-root-ca.crt}\ndata: {ca.crt: x}\n"
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: hubble}\n"
    told = loads("---\n".join([other, CONFIG_MAP, secret]), name="dump.yaml")
    assert told == loads(CONFIG_MAP, name="cm.yaml")
    assert "passed over, no settings of Cilium: ConfigMap kube-root-ca.crt, Secret hubble" in told.warnings[-1]


def test_a_single_config_map_may_have_any_name() -> None:
    text = CONFIG_MAP.replace("name: cilium-config", "name: my-cilium")
    assert loads(text, name="f") == loads(CONFIG_MAP, name="f")


def test_unquoted_values_are_taken_with_a_warning() -> None:
    told = loads("kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  enable-ipv6: false\n", name="f")
    assert told.values == {"enable-ipv6": "false"}
    assert "Kubernetes refuses these unquoted: enable-ipv6" in told.warnings[0]


def test_the_tunnel_key_of_old_agents() -> None:
    head = "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  tunnel: "
    assert loads(head + "geneve", name="f").values == {"routing-mode": "tunnel", "tunnel-protocol": "geneve"}
    assert loads(head + "disabled", name="f").values == {"routing-mode": "native"}


def test_old_words_of_kube_proxy_replacement_are_said() -> None:
    text = "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  kube-proxy-replacement: strict\n"
    told = loads(text, name="f")
    assert told.for_node("n").kube_proxy_replacement
    assert "strict is of Cilium 1.14 and before, read as true" in told.warnings[0]


def test_problems_of_a_config_map_have_lines() -> None:
    text = (
        "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  divices: eth0\n  mtu: big\n  enable_ipv6: 'true'\n"
    )
    assert problems(text) == [
        (4, "data.divices", "did you mean devices?"),
        (5, "data.mtu", "write a number, 0 for auto-detection"),
        (6, "data.enable_ipv6", "write enable-ipv6"),
    ]


def test_a_key_given_twice() -> None:
    text = "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  devices: eth0\n  devices: eth1\n"
    assert problems(text) == [(5, "data.devices", "keep one of them")]


def test_an_object_given_twice() -> None:
    ((line, field, fix),) = problems(f"{NODE_CONFIG}---\n{NODE_CONFIG}")
    assert (line, field, fix) == (0, "metadata.name", "keep one of them")


def test_problems_of_a_node_config_have_lines() -> None:
    text = """\
apiVersion: cilium.io/v2
kind: CiliumNodeConfig
metadata: {}
spec:
  devices: [eth0]
  nodeSelector:
    matchLabels: {zone: 1}
    matchExpressions:
      - {key: zone, operator: Near, values: [a]}
      - {key: zone, operator: In}
      - {key: zone, operator: Exists, values: [a]}
  defaults:
    routing-mode: nativ
"""
    found = problems(text)
    assert [(line, field) for line, field, _ in found] == [
        (3, "metadata"),
        (5, "spec.devices"),
        (13, "spec.defaults.routing-mode"),
        (7, "spec.nodeSelector.matchLabels"),
        (9, "spec.nodeSelector.matchExpressions[0]"),
        (10, "spec.nodeSelector.matchExpressions[1]"),
        (11, "spec.nodeSelector.matchExpressions[2]"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# nothing\n", 1),
        ("just words\n", 1),
        ("- devices\n", 1),
        ("kind: Deployment\nmetadata: {name: cilium}\n", 1),
        ("apiVersion: cilium.io/v2\nkind: CiliumNodeConfg\n", 2),
        ("kind: ConfigMap\ndata: [1]\n", 2),
        ("kind: ConfigMap\ndata:\n  devices: [eth0]\n", 3),
        ("kind: CiliumNodeConfig\nmetadata: {name: a}\nspec: 1\n", 3),
        ("a: [1\n", 2),
    ],
)
def test_what_holds_no_settings(text: str, line: int) -> None:
    assert problems(text)[0][0] == line


def test_a_misspelt_kind_is_named() -> None:
    assert problems("kind: CiliumNodeConfg\n")[0][2] == "did you mean kind CiliumNodeConfig?"


def test_the_articles_sketch_is_accepted_and_explained() -> None:
    told = loads(ARTICLE, name="article.yaml")
    assert told.values == {
        "devices": "eth0,eth1",
        "ipam": "kubernetes",
        "routing-mode": "tunnel",
        "tunnel-protocol": "vxlan",
    }
    assert told.base == "lab"
    kind, ipam, tunnel, devices = told.warnings
    assert "no Cilium has a kind CiliumConfig" in kind
    assert "CiliumNodeConfig (cilium.io/v2)" in kind
    assert "ipam=kubernetes" in ipam
    assert "routing-mode=tunnel and tunnel-protocol=vxlan" in tunnel
    assert "devices=eth0,eth1" in devices
    assert "neither allocates pod addresses" in devices


def test_what_the_sketch_cannot_mean_is_an_error() -> None:
    text = ARTICLE.replace('mode: "vxlan"', "mode: host-gw") + "  bgp: true\n"
    assert [(line, field) for line, field, _ in problems(text)] == [(9, "spec.tunnel"), (14, "spec.bgp")]
    assert problems(ARTICLE.replace('"kubernetes"', '"kubernets"')) == [(7, "spec.ipam", "write kubernetes")]


def test_olms_cilium_config_holds_helm_values() -> None:
    text = (
        "apiVersion: cilium.io/v1alpha1\nkind: CiliumConfig\nmetadata: {name: cilium}\nspec:\n  routingMode: native\n"
    )
    told = loads(text, name="f")
    assert told.values == {"routing-mode": "native"}
    assert told.base == "chart"
    assert loads(text + "  divices: eth0\n", name="f").warnings[0].startswith("f:6: spec.divices: no chart of Cilium")
    assert problems(text + "  MTU: big\n")[0][:2] == (6, "spec.MTU")


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flags"
    path.write_text("devices=eth1\n", encoding="utf-8")
    assert load(path) == Settings.of(devices="eth1")
    assert load(str(path)) == Settings.of(devices="eth1")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none")
    path.write_text("divices=eth1\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"{path}:1: divices"):
        load(path)


_keys = st.sampled_from(
    [
        "kind",
        "apiVersion",
        "metadata",
        "name",
        "data",
        "spec",
        "items",
        "nodeSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "defaults",
        "devices",
        "tunnel",
        "ipam",
        "mode",
        "routingMode",
        "bpf",
        "masquerade",
        "encryption",
        "enabled",
        "type",
        "eni",
        "cilium",
        "extraConfig",
        "mtu",
        "MTU",
        "cni",
        "kubeProxyReplacement",
        "enable-ipv6",
        "routing-mode",
        "chainingMode",
        "nodePort",
        "addresses",
    ]
)
_leaves = st.sampled_from(
    [None, True, 0, 1.5, "", "eth0", "true", "In", "List", "ConfigMap", "CiliumNodeConfig", "CiliumConfig", "a,b c"]
)
_data = st.recursive(_leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(_keys, v, max_size=5), max_leaves=15)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_keys, _data, max_size=6) | _data)
def test_any_data_is_read_or_refused_with_a_problem(data: object) -> None:
    try:
        loads(json.dumps(data), name="f")
    except InputError as error:
        assert error.problems


@given(st.text("devics=-:\n'\" #\\{}[]-kind0", max_size=40))
def test_any_text_is_read_or_refused_with_a_problem(text: str) -> None:
    try:
        loads(text, name="f")
    except InputError as error:
        assert error.problems
