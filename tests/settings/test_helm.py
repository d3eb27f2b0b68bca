"""Helm values, read as the chart's templates would write the ConfigMap."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from niclab.errors import InputError
from niclab.settings import Settings
from niclab.settings.flags import Values, agent_keys, chart_values, complaint, helm_value_of, helm_values, old_values
from niclab.settings.formats import loads, parse_assignments, to_helm


def helm(text: str) -> Settings:
    return loads(text, name="values.yaml")


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(InputError) as caught:
        helm(text)
    return [(problem.line, problem.field, problem.fix) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("devices: eth0", {"devices": "eth0"}),
        ("devices: eth0 eth1", {"devices": "eth0 eth1"}),
        ("devices: eth0,eth1", {"devices": "eth0,eth1"}),
        ("devices: [eth0, eth1]", {"devices": "eth0 eth1"}),
        ("devices: '{eth0,eth1}'", {"devices": "{eth0,eth1}"}),
        ("devices: ''", {"devices": ""}),
        ("devices: []", {"devices": ""}),
        ("devices: null", {}),
        ("forceDeviceDetection: true", {"force-device-detection": "true"}),
        ("forceDeviceDetection: false", {}),
        ("routingMode: native", {"routing-mode": "native"}),
        ("routingMode: ''", {}),
        ("tunnelProtocol: geneve", {"tunnel-protocol": "geneve"}),
        ("tunnelPort: 4789", {"tunnel-port": "4789"}),
        ("tunnelPort: 0", {}),
        ("MTU: 9000", {"mtu": "9000"}),
        ("MTU: 0", {}),
        ("tunnel: geneve", {"routing-mode": "tunnel", "tunnel-protocol": "geneve"}),
        ("tunnel: disabled", {"routing-mode": "native"}),
        ("tunnel: vxlan\nroutingMode: native", {"routing-mode": "native"}),
        ("autoDirectNodeRoutes: true", {"auto-direct-node-routes": "true"}),
        ("directRoutingSkipUnreachable: true", {"direct-routing-skip-unreachable": "true"}),
        ("ipv4NativeRoutingCIDR: 10.0.0.0/8", {"ipv4-native-routing-cidr": "10.0.0.0/8"}),
        ("ipv6NativeRoutingCIDR: fd00::/8", {"ipv6-native-routing-cidr": "fd00::/8"}),
        ("bpf: {masquerade: true}", {"enable-bpf-masquerade": "true"}),
        ("bpf: {masquerade: 'true'}", {"enable-bpf-masquerade": "true"}),
        ("bpf: {masquerade: null}", {}),
        ("bpf: {hostLegacyRouting: true}", {"enable-host-legacy-routing": "true"}),
        ("bpf: {tproxy: false}", {"enable-bpf-tproxy": "false"}),
        ("bpf: {datapathMode: netkit}", {"datapath-mode": "netkit"}),
        ("bpf: {vlanBypass: [10, 20]}", {"vlan-bpf-bypass": "10 20"}),
        ("enableIPv4Masquerade: false", {"enable-ipv4-masquerade": "false"}),
        ("enableIPv6Masquerade: false", {"enable-ipv6-masquerade": "false"}),
        ("enableMasqueradeRouteSource: true", {"enable-masquerade-to-route-source": "true"}),
        ("egressMasqueradeInterfaces: eth+", {"egress-masquerade-interfaces": "eth+"}),
        ("egressMasqueradeInterfaces: [eth0, eth1]", {"egress-masquerade-interfaces": "eth0,eth1"}),
        ("ipv4: {enabled: false}", {"enable-ipv4": "false"}),
        ("ipv6: {enabled: true}", {"enable-ipv6": "true"}),
        ("kubeProxyReplacement: true", {"kube-proxy-replacement": "true"}),
        ("kubeProxyReplacement: 'false'", {"kube-proxy-replacement": "false"}),
        ("kubeProxyReplacement: strict", {"kube-proxy-replacement": "strict"}),
        ("nodePort: {directRoutingDevice: eth1}", {"direct-routing-device": "eth1"}),
        ("nodePort: {addresses: [10.0.0.0/8, 'fd00::/64']}", {"nodeport-addresses": "10.0.0.0/8,fd00::/64"}),
        ("nodePort: {enabled: true}", {"enable-node-port": "true"}),
        ("endpointRoutes: {enabled: true}", {"enable-endpoint-routes": "true"}),
        ("ipam: {mode: kubernetes}", {"ipam": "kubernetes"}),
        ("hostFirewall: {enabled: true}", {"enable-host-firewall": "true"}),
        ("encryption: {enabled: true, type: wireguard}", {"enable-wireguard": "true"}),
        ("encryption: {enabled: true}", {"enable-ipsec": "true"}),
        ("encryption: {enabled: false, type: wireguard}", {}),
        ("l2announcements: {enabled: true}", {"enable-l2-announcements": "true"}),
        ("bgpControlPlane: {enabled: true}", {"enable-bgp-control-plane": "true"}),
        ("egressGateway: {enabled: true}", {"enable-egress-gateway": "true"}),
        ("ipMasqAgent: {enabled: true}", {"enable-ip-masq-agent": "true"}),
        ("ipMasqAgent: {enabled: true, config: {}}", {"enable-ip-masq-agent": "true"}),
        (
            "ipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [10.0.1.0/24], masqLinkLocal: false}}",
            {
                "enable-ip-masq-agent": "true",
                "ip-masq-agent-config-path": '{"nonMasqueradeCIDRs": ["10.0.1.0/24"], "masqLinkLocal": false}',
            },
        ),
        (
            "loadBalancer: {mode: dsr, acceleration: native, algorithm: maglev}",
            {"bpf-lb-mode": "dsr", "bpf-lb-acceleration": "native", "bpf-lb-algorithm": "maglev"},
        ),
        ("hubble: {enabled: false}", {"enable-hubble": "false"}),
        ("cni: {exclusive: false}", {"cni-exclusive": "false"}),
        (
            "cni: {chainingMode: generic-veth}",
            {
                "cni-chaining-mode": "generic-veth",
                "enable-host-legacy-routing": "true",
                "enable-local-node-route": "false",
            },
        ),
        (
            "eni: {enabled: true}",
            {
                "auto-create-cilium-node-resource": "true",
                "enable-endpoint-routes": "true",
                "enable-ipv4-masquerade": "false",
                "ipam": "eni",
                "routing-mode": "native",
            },
        ),
        ("extraConfig: {enable-tcx: false, mtu: '1400'}", {"enable-tcx": "false", "mtu": "1400"}),
        ("routingMode: tunnel\nextraConfig: {routing-mode: native}", {"routing-mode": "native"}),
        ("cilium:\n  routingMode: native", {"routing-mode": "native"}),
        ("cilium: {routingMode: native}\nglobal: {x: 1}\nimage: y", {"routing-mode": "native"}),
        ("USER-SUPPLIED VALUES:\nroutingMode: native", {"routing-mode": "native"}),
        ("COMPUTED VALUES:\nroutingMode: native", {"routing-mode": "native"}),
        ("{}", {}),
    ],
)
def test_helm_values_become_flags(text: str, values: dict[str, str]) -> None:
    settings = helm(text)
    assert settings.values == values
    assert settings.base == "chart"


def test_what_the_agent_does_not_see_is_listed() -> None:
    text = """\
image: {repository: quay.io/cilium/cilium, tag: v1.18.0}
resources: {limits: {memory: 1Gi}}
operator: {replicas: 1}
prometheus: {enabled: true}
podAnnotations: {}
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/8]}
hubble: {relay: {enabled: true}}
global: {ours: 1}
"""
    settings = helm(text)
    assert settings.values == {"ipam": "cluster-pool"}
    assert settings.warnings == (
        (
            "values.yaml: not an agent setting, left out: hubble.relay, image, "
            "ipam.operator.clusterPoolIPv4PodCIDRList, operator, prometheus, resources"
        ),
    )


def test_old_values_are_said() -> None:
    assert "chart 1.14 and before; write routingMode: native" in helm("tunnel: disabled").warnings[0]
    assert "later ones want false" in helm("kubeProxyReplacement: partial").warnings[0]


@pytest.mark.parametrize(
    ("text", "line", "field", "fix"),
    [
        ("routingMode: nativ", 1, "routingMode", "write native"),
        ("tunnel: gre", 1, "tunnel", "write routingMode and tunnelProtocol"),
        ("ipv4NativeRoutingCIDR: pods", 1, "ipv4NativeRoutingCIDR", "write a CIDR such as 10.244.0.0/16"),
        ("MTU: big", 1, "MTU", "write a number"),
        ("devices: {eth0: eth1}", 1, "devices", "chart's values for devices"),
        ("devices: [[eth0]]", 1, "devices", "chart's values for devices"),
        ("kubeProxyReplacement: maybe", 1, "kubeProxyReplacement", "write"),
        ("encryption: {enabled: true, type: tls}", 1, "encryption.type", "write ipsec or wireguard"),
        ("bpf: true", 1, "bpf", "write the values below bpf:"),
        ("ipam: kubernetes", 1, "ipam", "write the values below ipam:"),
        ("nodes: [a]\nfabrics: [b]", 1, "", "give Helm values, a ConfigMap or KEY=VALUE lines"),
        ("extraConfig:\n  divices: eth0", 2, "extraConfig.divices", "did you mean devices?"),
        ("extraConfig:\n  mtu: [1]", 2, "extraConfig.mtu", "write it as the ConfigMap has it"),
        ("ipMasqAgent:\n  enabled: true\n  config: 10.0.0.0/8", 3, "ipMasqAgent.config", "nonMasqueradeCIDRs"),
        (
            "ipMasqAgent:\n  enabled: true\n  config:\n    nonMasqueradeCIDRs: [pods]",
            3,
            "ipMasqAgent.config",
            "nonMasqueradeCIDRs",
        ),
        ("extraConfig: [1]", 1, "extraConfig", "write key: value lines below it"),
        ("extraConfig: {enable-ipv6: maybe}", 1, "extraConfig.enable-ipv6", "write true or false"),
    ],
)
def test_what_is_wrong_has_line_field_and_a_mend(text: str, line: int, field: str, fix: str) -> None:
    (found,) = problems(text)
    assert found[:2] == (line, field)
    assert fix in found[2]


def test_an_operators_key_in_extra_config_is_left_out() -> None:
    settings = helm("extraConfig: {cluster-pool-ipv4-cidr: 10.0.0.0/8}")
    assert settings.values == {}
    assert "extraConfig.cluster-pool-ipv4-cidr" in settings.warnings[0]


def test_the_table_is_sound() -> None:
    assert len(helm_values()) > 250
    assert {row.flag for row in helm_values().values()} <= agent_keys()
    assert all((".".join(row.path[:-1])) not in helm_values() for row in helm_values().values())
    assert set(helm_values()) <= {*chart_values()}
    assert all(helm_values()[".".join(row.path)] == row for row in helm_value_of().values())


def test_written_values_read_well() -> None:
    text = to_helm(
        Settings.of(
            devices="eth0 eth1",
            routing="native",
            enable_bpf_masquerade=True,
            direct_routing_device="eth0",
            kube_proxy_replacement=True,
            enable_wireguard=True,
            mtu=1400,
            enable_tcx=False,
            force_device_detection=False,
        )
    )
    data: dict[str, Any] = yaml.safe_load(text)
    assert data == {
        "MTU": 1400,
        "bpf": {"enableTCX": False, "masquerade": True},
        "devices": ["eth0", "eth1"],
        "encryption": {"enabled": True, "type": "wireguard"},
        "extraConfig": {"force-device-detection": "false"},
        "kubeProxyReplacement": "true",
        "nodePort": {"directRoutingDevice": "eth0"},
        "routingMode": "native",
    }


def test_the_masquerading_agents_configuration_is_written_as_the_chart_has_it() -> None:
    told = helm("ipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [10.0.1.0/24]}}")
    data = {"enabled": True, "config": {"nonMasqueradeCIDRs": ["10.0.1.0/24"]}}
    assert yaml.safe_load(to_helm(told)) == {"ipMasqAgent": data}
    assert loads(to_helm(told), name="v.yaml") == told
    elsewhere = Settings.of(enable_ip_masq_agent=True, ip_masq_agent_config_path="/etc/masq")
    assert loads(to_helm(elsewhere), name="v.yaml").values == elsewhere.values


def test_a_configuration_of_what_is_off_is_told() -> None:
    settings = helm("ipMasqAgent: {config: {nonMasqueradeCIDRs: [10.0.1.0/24]}}")
    assert settings.values == {}
    assert settings.warnings == ("values.yaml: ipMasqAgent.config is of no effect without ipMasqAgent.enabled",)


@pytest.mark.parametrize("value", ["true", "false", "1", "a b", "a,b", ""])
def test_every_flag_of_the_table_survives(value: str) -> None:
    told = Settings(Values({flag: value for flag in helm_value_of() if complaint(flag, value) is None}))
    assert len(told.values) > 150
    assert loads(to_helm(told), name="v.yaml") == told


def test_a_row_that_makes_more_flags_is_written_as_extra_config() -> None:
    told = Settings.of(cni_chaining_mode="generic-veth")
    assert yaml.safe_load(to_helm(told)) == {"extraConfig": {"cni-chaining-mode": "generic-veth"}}
    assert loads(to_helm(told), name="v.yaml") == told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MTU: 1\nroutingmode: native", "2: routingmode: {no}; did you mean routingMode?"),
        ("MTU: 1\ndivices: eth0", "2: divices: {no}; did you mean devices?"),
        ("devices: x\nmtu: 9000", "2: mtu: {no}; write MTU"),
        ("bpf:\n  masqerade: true", "2: bpf.masqerade: {no}; did you mean bpf.masquerade?"),
        ("ipam:\n  mod: kubernetes", "2: ipam.mod: {no}; did you mean ipam.mode?"),
        ("MTU: 1\nbpf.masquerade: true", "2: bpf.masquerade: {no}; write it as nested mappings"),
        ("MTU: 1\nsomethingOfOurOwn: 1", "2: somethingOfOurOwn: {no}"),
        ("MTU: 1\ncflags: x", "2: cflags: {no}; put it under extraConfig"),
        (
            "nativeRoutingCIDR: x",
            "1: nativeRoutingCIDR: charts 1.9 to 1.11 had this value, later ones ignore it; write ",
        ),
        (
            "nodePort: {device: x}",
            "1: nodePort.device: charts 1.9 to 1.11 had this value, later ones ignore it; write d",
        ),
        (
            "sockops: {enabled: true}",
            "1: sockops: charts up to 1.13 had this value, later ones ignore it; leave it out",
        ),
        ("sessionAffinity: true", "1: sessionAffinity: charts up to 1.18 have this value, later ones ignore it"),
    ],
)
def test_what_charts_do_not_have_they_ignore(text: str, words: str) -> None:
    settings = helm(text)
    no = "no chart of Cilium has this value, and charts ignore such"
    assert settings.warnings[0].startswith(f"values.yaml:{words.format(no=no)}")


def test_what_takes_any_keys_takes_them() -> None:
    text = """\
nodeSelector: {kubernetes.io/os: linux, pool: a}
podLabels: {app.kubernetes.io/name: x}
hubble: {relay: {nodeSelector: {kubernetes.io/os: linux}, resources: {limits: {memory: 1Gi}}}}
affinity: {nodeAffinity: {required: {}}}
operator: {podAnnotations: {a.b/c: d}, tolerations: [{operator: Exists}]}
"""
    (words,) = helm(text).warnings
    assert words.startswith("values.yaml: not an agent setting, left out: ")


ENI = {
    "auto-create-cilium-node-resource": "true",
    "enable-endpoint-routes": "true",
    "ipam": "eni",
    "routing-mode": "native",
}


@pytest.mark.parametrize(
    ("text", "version", "values", "words"),
    [
        ("egressGateway: {enabled: true}", "1.17", {"enable-ipv4-egress-gateway": "true"}, ""),
        ("egressGateway: {enabled: true}", "1.18.3", {"enable-egress-gateway": "true"}, ""),
        ("enableRuntimeDeviceDetection: true", "1.18", {}, "charts up to 1.17 have this value, 1.18 ignores it"),
        ("underlayProtocol: ipv6", "1.17", {}, "charts from 1.18 on have this value, 1.17 ignores it"),
        ("underlayProtocol: ipv6", "1.18", {"underlay-protocol": "ipv6"}, ""),
        ("encryption: {strictMode: {cidr: 10.0.0.0/8}}", "1.18", {"encryption-strict-mode-cidr": "10.0.0.0/8"}, ""),
        ("encryption: {strictMode: {cidr: 10.0.0.0/8}}", "1.19", {"encryption-strict-egress-cidr": "10.0.0.0/8"}, ""),
        ("eni: {enabled: true}", "1.17", ENI, ""),
        ("eni: {enabled: true}", "1.18", {**ENI, "enable-ipv4-masquerade": "false"}, ""),
        ("eni: {enabled: true}\nupgradeCompatibility: '1.17'", "1.20", ENI, ""),
        ("nativeRoutingCIDR: 10.0.0.0/8", "1.18", {}, "charts 1.9 to 1.11 had this value, 1.18 ignores it"),
    ],
)
def test_the_chart_of_a_version(text: str, version: str, values: dict[str, str], words: str) -> None:
    settings = loads(text, name="values.yaml", version=version)
    assert settings.values == values
    assert words in "".join(settings.warnings)
    assert bool(words) == any("left out" not in line for line in settings.warnings)


def test_the_agents_own_arguments_win() -> None:
    text = """\
devices: eth0
extraConfig: {devices: eth2, mtu: 1400}
extraEnv: [{name: CILIUM_DEVICES, value: eth3}, {name: CILIUM_MTU, value: 1300}, {name: OTHER, value: x}]
extraArgs: [--devices=eth1, --enable-ipv6, --direct-routing-device, eth1]
"""
    assert helm(text).values == {
        "devices": "eth1",
        "enable-ipv6": "true",
        "direct-routing-device": "eth1",
        "mtu": "1300",
    }
    assert problems("MTU: 1\nextraArgs:\n- --mtu=1400\n- --divices=eth1") == [
        (4, "extraArgs[1]", "did you mean devices?")
    ]
    assert problems("extraArgs: --devices=eth1")[0][1] == "extraArgs"
    assert problems("extraArgs: [devices=eth1]")[0][2] == "write --flag=value"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["bpf.masquerade=true"], {"enable-bpf-masquerade": "true"}),
        (["devices={eth0,eth1}"], {"devices": "eth0 eth1"}),
        (["devices[0]=eth0", "devices[1]=eth1"], {"devices": "eth0 eth1"}),
        (["bpf.masquerade=true,MTU=1400"], {"enable-bpf-masquerade": "true", "mtu": "1400"}),
        (["nodePort.addresses={10.0.0.0/8,fd00::/64}"], {"nodeport-addresses": "10.0.0.0/8,fd00::/64"}),
        (["ipam.mode=kubernetes", "ipam=cluster-pool"], {"ipam": "cluster-pool"}),
        (["bpf.datapathMode=null", "l7Proxy=false"], {"enable-l7-proxy": "false"}),
        (["nodeSelector.kubernetes\\.io/os=linux", "tunnel=disabled"], {"routing-mode": "native"}),
        (["extraConfig.mtu=1400"], {"mtu": "1400"}),
        (["encryption.enabled=true", "encryption.type=wireguard"], {"enable-wireguard": "true"}),
        (["labels=a\\,b", "devices=eth0,eth1"], {"labels": "a\\,b", "devices": "eth0,eth1"}),
        (["kubeProxyReplacement=true", "tunnelPort=4789"], {"kube-proxy-replacement": "true", "tunnel-port": "4789"}),
    ],
)
def test_paths_of_helm_set(words: list[str], values: dict[str, str]) -> None:
    given = parse_assignments(words)
    assert given.values == values
    assert given.base == "lab"


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (
            "bpf.masquerad=true",
            "bpf.masquerad: no chart of Cilium has this value\n  fix: did you mean bpf.masquerade?",
        ),
        ("bpf..masquerade=true", "'bpf..masquerade' is no path of a value"),
        ("bpf.masquerade=true,x", "'x' is not PATH=VALUE"),
        ("enableIPv4Masquerade=perhaps", "neither true nor false"),
        ("ipam.mode[0]=x", "ipam.mode"),
    ],
)
def test_wrong_paths_of_helm_set(word: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_assignments([word])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (
            "egressGateway.installRoutes=true",
            "--set: egressGateway.installRoutes: charts up to 1.15 had this value, 1.20",
        ),
        ("nodePort.enabled=true", "--set: nodePort.enabled: charts up to 1.18 have this value, 1.20 ignores it"),
        ("hubble.relay.enabled=true", "--set: not an agent setting, left out: hubble.relay"),
    ],
)
def test_what_the_chart_ignores_of_helm_set(word: str, words: str) -> None:
    given = parse_assignments([word], version="1.20")
    assert given.values == {}
    assert given.warnings[0].startswith(words)


def test_old_values_are_of_no_chart_of_today() -> None:
    assert len(old_values()) > 20
    assert [path for path in old_values() if path in chart_values() or f"{path}." in chart_values()] == []
    now = [old.now for old in old_values().values() if old.now]
    assert [path for path in now if path not in chart_values() and f"{path}." not in chart_values()] == []
