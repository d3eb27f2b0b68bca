"""Whatever a settings file holds: it is read, or refused with an InputError. Nothing else is raised."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.errors import InputError
from niclab.settings.formats import loads, parse_assignments, parse_node_assignments
from niclab.settings.ipmasq import read

_WORDS = st.sampled_from(
    [
        *("kind", "apiVersion", "metadata", "name", "data", "spec", "items", "nodeSelector", "defaults", "matchLabels"),
        *("matchExpressions", "key", "operator", "values", "devices", "tunnel", "mode", "ipam", "kubeProxyReplacement"),
        *("encryption", "enabled", "type", "eni", "ipMasqAgent", "config", "nonMasqueradeCIDRs", "extraConfig", "MTU"),
        *("routing-mode", "tunnel-protocol", "mtu", "ipv4-native-routing-cidr", "enable-ipv6", "nodeport-addresses"),
        *("source", "sources", "helm", "valuesContent", "valuesObject", "parameters", "machine", "cluster", "contents"),
        *("inlineManifests", "extraArgs", "extraEnv", "set", "chart", "helmCharts", "valuesInline", "values.yaml"),
        *("cilium", "bpf", "masquerade", "nodePort", "USER-SUPPLIED VALUES", "a.b", "", "cluster-pool-ipv4-cidr"),
    ]
)
_VALUES = st.sampled_from(
    [
        *("ConfigMap", "CiliumNodeConfig", "CiliumConfig", "List", "ConfigMapList", "cilium-config", "cilium.io/v2"),
        *("cilium.io/v1alpha1", "In", "Exists", "true", "native", "vxlan", "disabled", "strict", "eth+", "10.0.0.0/8"),
    ]
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | _VALUES | st.text(max_size=4)
_KEYS = _WORDS | st.integers(0, 3) | st.none() | st.booleans() | st.text(max_size=3)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12
)
_KINDS = st.sampled_from(
    [
        "ConfigMap",
        "CiliumNodeConfig",
        "CiliumConfig",
        "List",
        "Secret",
        5,
        None,
        [1],
        "HelmChart",
        "HelmChartConfig",
        "HelmRelease",
        "Application",
        "ApplicationSet",
        "Kustomization",
    ]
)
_OBJECTS = st.fixed_dictionaries(
    {"kind": _KINDS}, optional=dict.fromkeys(("metadata", "data", "spec", "helmCharts"), _TREES)
) | (st.dictionaries(_KEYS, _TREES, max_size=5))


@settings(max_examples=300, deadline=None)
@given(st.lists(_OBJECTS | _TREES, min_size=1, max_size=3))
def test_any_yaml_document(documents: list[Any]) -> None:
    with contextlib.suppress(InputError):
        loads(yaml.safe_dump_all(documents), name="f")


FILES = [
    "routing-mode=native\ndevices=eth0 eth1\nnode1:devices='eth1'\n",
    "--devices=eth0,eth1 --enable-ipv6\ncilium-agent --routing-mode native\n",
    "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  devices: eth0\n  tunnel: vxlan\n",
    "kind: CiliumNodeConfig\nmetadata: {name: a}\nspec: {nodeSelector: {matchLabels: {a: b}}, defaults: {mtu: '9'}}\n",
    "kubeProxyReplacement: true\nipam: {mode: eni}\ndevices: [eth0, eth1]\nextraConfig: {mtu: 1500}\n",
    "kind: HelmChart\nspec:\n  chart: cilium\n  valuesContent: |\n    MTU: 1\n  set: {a.b[0]: '{x,y}'}\n",
    "kind: HelmRelease\nmetadata: {name: cilium}\nspec:\n  values: {extraArgs: [--mtu=9, --devices, x]}\n",
    "kind: Application\nspec: {source: {helm: {values: 'a: b', parameters: [{name: a.b, value: c}]}}}\n",
    "machine: {}\ncluster: {inlineManifests: [{contents: 'kind: ConfigMap'}, {contents: '- [a'}]}\n",
    "devices                eth0 eth1\nroutin-mode            native\nlabels\n",
    """level=info msg="  --devices='eth0'"\nlevel=info msg="  --mtu='[x]'"\n""",
    "kind: CiliumConfig\nspec:\n  ipam: {mode: cluster-pool}\n  tunnel: {mode: vxlan}\n  devices: [eth0]\n",
]
_JUNK = st.sampled_from([*"~\"'=\\#%\0é", "[]", "{}", "- ", ": ", "--", "&a", "*a", "0x", "[["])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 2**32), st.lists(_JUNK | st.text(max_size=3), min_size=1, max_size=4))
def test_any_damaged_file(text: str, seed: int, junk: list[str]) -> None:
    chance = random.Random(seed)
    for piece in junk:
        cut = chance.randrange(len(text) + 1)
        text = text[:cut] + piece + text[cut + chance.randrange(6) :]
    with contextlib.suppress(InputError):
        loads(text, name="f")


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=12)
    | st.text("ab.[]01{}=,\\\\", max_size=12)
    | st.builds("{}.{}={}".format, _WORDS, _WORDS | st.text("a[0].", max_size=4), st.text(max_size=6))
    | st.builds("{}={}".format, _WORDS, st.text(max_size=6) | _VALUES)
)
def test_any_words_of_the_command_line(text: str) -> None:
    for parse in (parse_assignments, parse_node_assignments):
        with contextlib.suppress(InputError):
            parse([text])
        with contextlib.suppress(InputError):
            parse([f"node1:{text}"])


@settings(max_examples=200, deadline=None)
@given(_TREES | st.dictionaries(st.sampled_from(["nonMasqueradeCIDRs", "masqLinkLocal"]), _TREES))
def test_any_configuration_of_the_masquerading_agent(data: Any) -> None:
    with contextlib.suppress(InputError):
        read(yaml.safe_dump(data, default_flow_style=True))
    with contextlib.suppress(InputError):
        read(f"{{{data!r}")


@pytest.mark.parametrize("depth", [50, 5_000, 500_000])
def test_a_deep_configuration_of_the_masquerading_agent(depth: int) -> None:
    with pytest.raises(InputError):
        read("{a: " + "[" * depth)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("".join(f"devi-ces{number}: x\n" for number in range(20_000)), "a mapping of flags"),
        ("".join(f"devices{number}=x\n" for number in range(20_000)), "a flags file"),
        ("".join(f"value{number}: x\n" for number in range(20_000)), "Helm values"),
        ("kind: ConfigMap\ndata:\n" + "".join(f"  devices{number}: x\n" for number in range(20_000)), "a ConfigMap"),
    ],
    ids=lambda part: part if len(part) < 40 else "",
)
def test_of_very_many_problems_the_first_are_reported(text: str, name: str) -> None:
    with pytest.raises(InputError) as caught:
        loads(text, name=name)
    assert 1 <= len(caught.value.problems) <= 101
