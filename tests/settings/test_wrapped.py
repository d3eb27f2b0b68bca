"""Settings inside of what people keep them in: the same object as the bare file, and the file's own lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.errors import InputError
from niclab.settings import Settings
from niclab.settings.flags import Values
from niclab.settings.formats import loads

BARE = """\
kubeProxyReplacement: true
bpf:
  masquerade: true
devices: eth0,eth1
"""


def block(text: str, indent: int) -> str:
    return "".join(f"{' ' * indent}{line}" if line.strip() else line for line in text.splitlines(keepends=True))


def k3s(text: str) -> str:
    head = "apiVersion: helm.cattle.io/v1\nkind: HelmChartConfig\nmetadata: {name: rke2-cilium}\nspec:\n"
    return f"{head}  valuesContent: |\n{block(text, 4)}"


def flux(text: str) -> str:
    head = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: network}\nspec:\n"
    return f"{head}  chart: {{spec: {{chart: cilium}}}}\n  values:\n{block(text, 4)}"


def argo(text: str) -> str:
    head = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: network}\nspec:\n  source:\n"
    return f"{head}    chart: cilium\n    helm:\n      valuesObject:\n{block(text, 8)}"


def argo_text(text: str) -> str:
    head = "kind: Application\nmetadata: {name: network}\nspec:\n  sources:\n  - repoURL: https://git.example/values\n"
    return f"{head}  - chart: cilium\n    helm:\n      values: |\n{block(text, 8)}"


def argo_set(text: str) -> str:
    head = (
        "kind: ApplicationSet\nmetadata: {name: cilium}\nspec:\n  template:\n    spec:\n      source:\n        helm:\n"
    )
    return f"{head}          valuesObject:\n{block(text, 12)}"


def list_of(text: str) -> str:
    return f"kind: List\nitems:\n- kind: HelmChart\n  spec:\n    chart: cilium\n    valuesContent: |\n{block(text, 6)}"


WRAPPERS = [k3s, flux, argo, argo_text, argo_set, list_of]
wrapper = pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)


@wrapper
def test_a_wrapped_file_is_as_the_bare_one(wrap: Any) -> None:
    wrapped, bare = loads(wrap(BARE), name="f"), loads(BARE, name="f")
    assert (wrapped, wrapped.base, wrapped.warnings) == (bare, "chart", ())


@wrapper
@pytest.mark.parametrize("text", ["enableIPv4Masquerade: perhaps\n", "bpf:\n  masquerade: true\n  masqerade: true\n"])
def test_lines_are_those_of_the_file(wrap: Any, text: str) -> None:
    text = wrap(f"MTU: 1400\n{text}")
    wanted = next(number for number, line in enumerate(text.splitlines(), 1) if "perhaps" in line or "masqe" in line)
    try:
        words = loads(text, name="f").warnings[0]
    except InputError as error:
        words = str(error)
    assert words.startswith(f"f:{wanted}: ")


def test_wrong_yaml_in_a_block_has_the_files_line() -> None:
    with pytest.raises(InputError) as caught:
        loads(k3s("MTU: 1400\nbpf: {masquerade: true\n"), name="f")
    assert caught.value.problems[0].line >= 7


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(WRAPPERS),
    st.dictionaries(
        st.sampled_from(["devices", "MTU", "routingMode", "kubeProxyReplacement", "unheardOf", "bpf", "extraArgs"]),
        st.sampled_from(["eth0", 1400, True, None, ["--mtu=9"], {"masquerade": True}, {"x": "y"}, "native"]),
        min_size=1,
    ),
)
def test_any_values_mean_the_same_inside_a_wrapper(wrap: Any, values: dict[str, Any]) -> None:
    text = yaml.safe_dump(values)
    outcomes = []
    for each in (text, wrap(text)):
        try:
            read = loads(each, name="f")
            outcomes.append((read, len(read.warnings)))
        except InputError as error:
            outcomes.append((Settings(), len(error.problems)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            (
                "kind: Application\nspec:\n  source:\n    chart: cilium\n    helm:\n      values: 'MTU: 1400'\n"
                "      valuesObject: {MTU: 1500}\n      parameters: [{name: devices, value: '{eth0,eth1}'}]\n"
            ),
            {"devices": "eth0 eth1", "mtu": "1500"},
        ),
        (
            (
                "kind: HelmChart\nspec:\n  chart: cilium\n  valuesContent: 'bpf: {masquerade: false}'\n"
                "  set: {bpf.masquerade: true, MTU: 1400}\n"
            ),
            {"enable-bpf-masquerade": "true", "mtu": "1400"},
        ),
        (
            "bpf: {masquerade: true}\n---\nbpf: {tproxy: true}\n",
            {"enable-bpf-masquerade": "true", "enable-bpf-tproxy": "true"},
        ),
        ("devices: eth0\n---\ndevices: eth1\n", {"devices": "eth1"}),
        (
            (
                "machine: {}\ncluster:\n  inlineManifests:\n  - name: cilium\n    contents: |\n"
                "      kind: Secret\n      ---\n"
                "      kind: ConfigMap\n      metadata: {name: cilium-config}\n      data: {devices: eth0}\n"
            ),
            {"devices": "eth0"},
        ),
    ],
    ids=["Argo's parameters win", "k3s's set wins", "documents add up", "the last document wins", "Talos"],
)
def test_what_wins(text: str, values: dict[str, str]) -> None:
    assert loads(text, name="f").values == values


def test_values_that_stand_elsewhere_are_said_to_be_missing() -> None:
    text = (
        "kind: HelmRelease\nmetadata: {name: cilium}\nspec:\n  values: {MTU: 1400}\n  valuesFrom: [{kind: ConfigMap}]\n"
    )
    assert loads(text, name="f").warnings == (
        "f:5: spec.valuesFrom: values that stand elsewhere are not read: give their file, too",
    )
    with pytest.raises(InputError, match="the HelmRelease has no values in it"):
        loads(text.replace("  values: {MTU: 1400}\n", ""), name="f")


@pytest.mark.parametrize("first", ["ConfigMap", "HelmRelease"])
def test_values_of_a_configmap_beside_it(first: str) -> None:
    """Flux's valuesFrom: what the release itself says wins, wherever it stands."""
    parts = {
        "HelmRelease": "kind: HelmRelease\nmetadata: {name: cilium}\n"
        "spec: {values: {MTU: 1400}, valuesFrom: [{kind: ConfigMap, name: v}]}\n",
        "ConfigMap": "kind: ConfigMap\nmetadata: {name: v}\n"
        "data:\n  values.yaml: |\n    devices: eth0\n    MTU: 1500\n",
    }
    text = "---\n".join(sorted(parts.values(), key=lambda part: f"kind: {first}" not in part))
    both = loads(text, name="f")
    assert (dict(both.values), both.warnings) == ({"devices": "eth0", "mtu": "1400"}, ())
    alone = loads(parts["ConfigMap"], name="f")
    assert alone.values == {"devices": "eth0", "mtu": "1500"}
    with pytest.raises(InputError, match="f:5: devices"):
        loads(parts["ConfigMap"].replace("eth0", "{a: b}"), name="f")


def test_kustomizations_hold_values_too() -> None:
    text = "kind: Kustomization\nhelmCharts:\n- {name: nginx, valuesInline: {x: y}}\n- name: cilium\n  valuesInline:\n"
    assert loads(f"{text}    devices: eth0\n", name="f").values == {"devices": "eth0"}
    with pytest.raises(InputError, match="f:6: MTU"):
        loads(f"{text}    MTU: big\n", name="f")


def test_a_talos_machine_without_a_manifest_has_no_settings() -> None:
    with pytest.raises(InputError, match=r"a Talos machine configuration without cluster"):
        loads("machine: {type: worker}\ncluster: {network: {cni: {name: none}}}\n", name="f")


def test_other_charts_are_passed_over() -> None:
    other = "kind: HelmRelease\nmetadata: {name: ingress}\nspec: {chart: {spec: {chart: nginx}}, values: {MTU: 1}}\n"
    both = loads(f"{other}---\n{flux(BARE)}", name="f")
    assert both == loads(BARE, name="f")
    assert both.warnings == ("f: passed over, no settings of Cilium: HelmRelease ingress",)
    with pytest.raises(InputError, match="holds no settings of Cilium"):
        loads(other, name="f")


VIEW = """\
agent-not-ready-taint-key                         node.cilium.io/agent-not-ready
cluster-pool-ipv4-cidr                            10.0.0.0/8
devices                                           eth0 eth1
ip-tracing-option-type                            0
custom-cni-conf                                   false
labels
"""


def test_what_cilium_config_view_prints() -> None:
    view = loads(VIEW, name="view")
    assert view.values["devices"] == "eth0 eth1"
    assert view.values["labels"] == ""
    assert view.base == "cluster"
    assert view.warnings == ("view: read by no agent, left out: cluster-pool-ipv4-cidr, custom-cni-conf",)
    with pytest.raises(InputError, match="routing-mode: 'nativ' is none of tunnel, native"):
        loads(f"{VIEW}routing-mode                                      nativ\n", name="view")


@pytest.mark.parametrize("form", ["text", "json", "klog"])
def test_the_head_of_an_agents_log(form: str) -> None:
    flags = {
        "devices": "eth0,eth1",
        "labels": "",
        "enable-policy": "never",
        "of-tomorrow": "x",
        "ip-masq-agent-config-path": '{"a": 1}',
    }
    messages = [
        "Memory available for map entries",
        *(f"  --{key}='{value}'" for key, value in flags.items()),
        "Started",
    ]
    line = {
        "text": lambda words: f"time=2026-01-14T10:00:00Z level=info msg={json.dumps(words)} subsys=daemon",
        "json": lambda words: json.dumps({"time": "2026-01-14T10:00:00Z", "level": "info", "msg": words}),
        "klog": lambda words: f"level=info msg={json.dumps(words)} subsys=daemon",
    }[form]
    log = loads("\n".join(map(line, messages)), name="log")
    of_tomorrow = flags.pop("of-tomorrow")
    assert (log, log.base, of_tomorrow) == (Settings(Values(flags)), "cluster", "x")
    assert log.warnings == ("log: read by no agent, left out: of-tomorrow",)
