"""Whatever a person may ask: topologies of every kind of link and policy, settings of the whole table of flags, flows
to everything that has an address. Pure; a seed's question is the same every time.

What is drawn need not be right: niclab refuses it in words, or answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from niclab.check.topology import check, check_flow
from niclab.cilium.version import VERSIONS
from niclab.settings import flags
from niclab.topology.model import Flow, Topology

_MODES = ("active-backup", "balance-rr", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_ODD = tuple(
    "|".join(
        (
            "| |0|-1|1|65535|true|false|yes|none|default|auto|native|snat|4 17|0,4095,-3|²|é|a=b|key!=value,!other,=",
            "eth0|eth+|!eth0|eth0 eth1,eth2|*|+|(|eth[0-9]|/nowhere",
            "10.0.0.1|10.0.0.0/8|0.0.0.0/0|::/0|fd00::/64|10.0.0.1/24",
        )
    ).split("|")
)
_BEARING: dict[str, Sequence[str]] = {
    "devices": [
        "",
        "eth0",
        "eth+",
        "eth0,eth1",
        "bond0",
        "eth1,bond0.17",
        "bond+ br0 dum0",
        "lo",
        "nope",
        "!eth1,eth+",
    ],
    "force-device-detection": ["true", "false"],
    "direct-routing-device": ["eth0", "eth1", "bond0", "nope", "eth+", "br0"],
    "routing-mode": ["tunnel", "native", "native"],
    "tunnel-protocol": ["vxlan", "geneve"],
    "tunnel-port": ["0", "8472", "6081", "51871", "1"],
    "underlay-protocol": ["auto", "ipv4", "ipv6"],
    "auto-direct-node-routes": ["true", "false"],
    "direct-routing-skip-unreachable": ["true", "false"],
    "ipv4-native-routing-cidr": ["10.244.0.0/16", "10.0.0.0/8", "0.0.0.0/0"],
    "ipv6-native-routing-cidr": ["fd00:244::/32", "::/0"],
    "enable-ipv4": ["true", "true", "true", "false"],
    "enable-ipv6": ["true", "true", "false"],
    "enable-ipv4-masquerade": ["true", "true", "false"],
    "enable-ipv6-masquerade": ["true", "false"],
    "enable-bpf-masquerade": ["true", "true", "false"],
    "egress-masquerade-interfaces": ["", "", "eth0", "eth+", "bond0.17"],
    "enable-masquerade-to-route-source": ["true", "false", "false"],
    "enable-ip-masq-agent": ["true", "false", "false"],
    "kube-proxy-replacement": ["true", "true", "true", "false"],
    "bpf-lb-mode": ["snat", "snat", "dsr", "hybrid"],
    "bpf-lb-dsr-dispatch": ["opt", "geneve", "ipip"],
    "bpf-lb-acceleration": ["disabled", "native", "best-effort"],
    "bpf-lb-external-clusterip": ["true", "false"],
    "bpf-lb-sock-hostns-only": ["true", "false"],
    "enable-dynamic-source-lookup-nodeport": ["true", "false"],
    "enable-endpoint-routes": ["true", "false"],
    "enable-host-legacy-routing": ["true", "false"],
    "enable-host-firewall": ["true", "false", "false"],
    "enable-egress-gateway": ["true", "true", "false"],
    "enable-ipv4-egress-gateway": ["true", "true", "false"],
    "enable-l2-announcements": ["true", "true", "false"],
    "enable-local-redirect-policy": ["true", "false"],
    "enable-bgp-control-plane": ["true", "false"],
    "enable-wireguard": ["true", "false", "false"],
    "encrypt-node": ["true", "false", "false"],
    "node-encryption-opt-out-labels": ["", "role=gateway", "!role,zone!=a"],
    "enable-ipsec": ["true", "false", "false", "false"],
    "enable-remote-node-masquerade": ["true", "false"],
    "enable-session-affinity": ["true", "false"],
    "enable-bpf-tproxy": ["true", "false"],
    "install-no-conntrack-iptables-rules": ["true", "false", "false"],
    "nodeport-addresses": ["", "10.0.0.0/24", "10.1.0.0/16,fd00::/16", "192.0.2.0/24"],
    "vlan-bpf-bypass": ["", "0", "17", "4 17", "4095"],
    "datapath-mode": ["veth", "veth", "netkit", "netkit-l2", "auto"],
    "ipam": ["kubernetes", "cluster-pool", "multi-pool", "eni", "delegated-plugin", "azure"],
    "mtu": ["0", "1280", "1400", "9000", "65535", "68"],
    "ipv4-node": ["auto", "10.0.0.1", "192.0.2.1"],
    "service-no-backend-response": ["reject", "drop"],
    "egress-multi-home-ip-rule-compat": ["true", "false"],
    "derive-masq-ip-addr-from-device": ["eth0", "dum0", "nope"],
}


@dataclass(frozen=True)
class Question:
    """A topology as a file has it, settings as words, flows as words: what is given to niclab."""

    topology: dict[str, Any]
    settings: tuple[str, ...]
    node_settings: tuple[str, ...]
    version: str
    flows: tuple[str, ...]
    expected: tuple[str, ...]
    nics: Literal["physical", "veth"] | None
    size: int | None

    @property
    def file(self) -> str:
        """JSON is YAML."""
        return json.dumps(self.topology)

    def arguments(self, file: str, *, expected: bool = True) -> list[str]:
        """What stands behind `niclab explain` and the like."""
        words = [file, "--cilium-version", self.version]
        words += [f"--nics={self.nics}"] if self.nics else []
        words += [f"--size={self.size}"] if self.size else []
        words += [f"--set={each}" for each in self.settings]
        words += [f"--node-set={each}" for each in self.node_settings]
        words += [f"--flow={each}" for each in self.flows]
        return [*words, *(f"--expect={each}" for each in self.expected if expected)]


def question(rng: Random, *, odd: float = 0.15, kinds: Sequence[str] = ()) -> Question:
    """`odd`: how often something is drawn that may be wrong. `kinds`: of links; without them of every kind."""
    return _Drawer(rng, odd, tuple(kinds) or ("bond", "vlan", "bridge", "vrf", "dummy", "loopback")).question()


class _Drawer:
    """Addresses say whose they are: 10.FABRIC.0.NUMBER, VLANs 10.TAG.0.NUMBER, pods 10.244.NODE.NUMBER."""

    def __init__(self, rng: Random, odd: float, kinds: tuple[str, ...]) -> None:
        self.rng, self.odd, self.kinds = rng, odd, kinds
        self.fabrics = [f"f{n}" for n in range(rng.randint(1, 3))]
        self.nodes = rng.randint(1, 3)
        self.families = rng.choice([(4,), (4,), (4, 6), (4, 6), (6,)])
        self.ipam = rng.choice(["kubernetes"] * 6 + ["multi-pool", "eni"])
        self.unnumbered = 6 in self.families and self.often(0.3)

    def often(self, chance: float) -> bool:
        return self.rng.random() < chance

    def addresses(self, net: int, number: int, *, chance: float = 1.0) -> list[str]:
        if not self.often(chance):
            return []
        every = {4: f"10.{net}.0.{number}/24", 6: f"fd00:{net}::{number}/64"}
        given = [every[family] for family in self.families]
        if self.often(0.15):
            given.append(
                self.rng.choice([f"10.{net}.0.{number + 40 if number < 200 else 190}/24", f"172.16.{net}.{number}/32"])
            )
        if self.unnumbered:
            given.append(f"fe80::{net}:{number}/64")
        return given

    def question(self) -> Question:
        made = self.topology()
        topology = None if self.often(self.odd) else _repaired(made)
        settings = [each for each in self.settings(made) if self.often(self.odd / 8) or _is_fine(each)]
        flows = [*self.flows(made, self.rng.randint(4, 9))]
        if topology is not None and not self.often(self.odd / 2):
            flows = [flow for flow in flows if check_flow(topology, Flow.parse(flow)) is None]
        return Question(
            topology=made,
            settings=tuple(settings),
            node_settings=tuple(f"node{self.rng.randint(1, self.nodes)}:{each}" for each in self.few(0.25)),
            version=str(self.rng.choice(VERSIONS)),
            flows=tuple(flows[:5]) or ("node1.eth0 -> 8.8.8.8",),
            expected=tuple(f"{flow}={self.expected(made)}" for flow in flows[:5] if self.often(0.1)),
            nics=self.rng.choice((None, None, "physical", "veth")),
            size=self.rng.choice([64, 1400, 1472, 1500, 9000, 65535]) if self.often(0.25) else None,
        )

    def topology(self) -> dict[str, Any]:
        nodes = {f"node{n}": self.node(n) for n in range(1, self.nodes + 1)}
        made: dict[str, Any] = {
            "name": "any",
            "fabrics": {name: {} for name in self.fabrics},
            "nodes": nodes,
            "externals": {f"ext{n}": self.external(n) for n in range(self.rng.randint(0, 2))},
            "routers": {"gw": self.router(nodes)} if self.often(0.7) else {},
        }
        pods = [pod for node in nodes.values() for pod in node.get("pods", ())]
        made["services"] = {name: self.service(n, pods) for n, name in enumerate(("web", "dns")) if self.often(0.6)}
        gateways = self.rng.sample(sorted(nodes), self.rng.randint(1, len(nodes)))
        if pods and self.often(0.5):
            made["egress_policies"] = {"out": self.egress(nodes, pods, gateways)}
        if made["services"] and self.often(0.5):
            made["l2_announcement_policies"] = {"vips": self.announcement(nodes)}
        if "web" in made["services"] and pods and self.often(0.4):
            made["local_redirect_policies"] = {"near": {"service": "web", "pods": self.rng.sample(pods, 1)}}
        if made["routers"] and self.often(0.3):
            made["bgp"] = {"nodes": {"asn": 65001}, "routers": {"gw": {"asn": 65000}}}
            if self.often(0.3):
                made["bgp"]["advertise"] = self.rng.choice([["services"], ["pod-cidrs"]])
        return made

    def node(self, n: int) -> dict[str, Any]:
        nics: dict[str, Any] = {}
        for index in range(self.rng.randint(1, 4)):
            fabric = index if index < len(self.fabrics) and self.often(0.7) else self.rng.randrange(len(self.fabrics))
            nics[f"eth{index}"] = {
                "fabric": self.fabrics[fabric],
                "addresses": self.addresses(fabric, n * 10 + index, chance=0.85),
                "up": not self.often(0.08),
                "mtu": self.rng.choice([1500, 1500, 1400, 9000, 1280]),
                "kind": self.rng.choice(["physical", "physical", "veth"]),
            }
        links = self.links(n, nics)
        every = {**nics, **links}
        made: dict[str, Any] = {"nics": nics, "links": links}
        made["routes"] = [*self.routes(n, every)] if self.often(0.9) else []
        own = [f"10.244.{n}.0/24", f"fd00:244:{n}::/64"]
        made["pod_cidrs"] = [own[family == 6] for family in self.families]
        made["pods"] = {f"pod{n}{letter}": self.pod(n) for letter in "ab"[: self.rng.choice([0, 1, 1, 2])]}
        if self.ipam == "multi-pool" and self.often(0.8):
            made["pools"] = {"blue": [f"10.245.{n}.0/24"]}
            for pod in made["pods"].values():
                pod.update({"pool": "blue"} if self.often(0.5) else {})
        if self.ipam == "eni" and (addressed := [nic for nic in nics.values() if nic["addresses"]]):
            nic = self.rng.choice(addressed)
            net = nic["addresses"][0].split(".")[1] if "." in nic["addresses"][0] else "0"
            nic["pod_addresses"] = [f"10.{net}.0.{128 + 16 * n}/28"]
            del made["pod_cidrs"]
        if self.often(0.3):
            made["labels"] = {"role": "gateway", "zone": self.rng.choice("ab")}
        addresses = [one.partition("/")[0] for link in every.values() for one in link.get("addresses", [])]
        if addresses and self.often(0.3):
            made["node_ip"] = [self.rng.choice(addresses)]
        if self.often(0.25):
            made["rules"] = [f"from 10.244.{n}.0/24 lookup 100", f"iif {self.rng.choice(list(every))} lookup 77"]
        if self.often(0.2):
            filtered = self.rng.choice([*every, "all", "default"])
            made["sysctls"] = {f"net.ipv4.conf.{filtered}.rp_filter": self.rng.randrange(3)}
        return made

    def pod(self, n: int) -> dict[str, Any]:
        pod: dict[str, Any] = {"labels": {"app": self.rng.choice(["web", "db"])}} if self.often(0.4) else {}
        if self.ipam == "kubernetes" and 4 in self.families and self.often(0.15):
            pod["addresses"] = [f"10.244.{n}.{self.rng.randint(20, 250)}"]
        return pod

    def links(self, n: int, nics: dict[str, Any]) -> dict[str, Any]:
        links: dict[str, Any] = {}
        free = [name for name in nics if name != "eth0" or self.often(0.4)]
        if "bond" in self.kinds and free and self.often(0.4):
            first = nics[free[-1]]["fabric"]
            bonded = [name for name in free if nics[name]["fabric"] == first or self.often(self.odd)][-2:]
            free = [name for name in free if name not in bonded]
            links["bond0"] = {"bond": bonded, "mode": self.rng.choice(_MODES)}
            self.enslaved(nics, bonded, links["bond0"], n)
        if "bridge" in self.kinds and self.often(0.25):
            port = free[-1:] if self.often(0.8) else []
            free = free[:-1] if port else free
            links["br0"] = {"bridge": port}
            self.enslaved(nics, port, links["br0"], n)
        if "vlan" in self.kinds:
            slaves = {slave for link in links.values() for slave in (*link.get("bond", ()), *link.get("bridge", ()))}
            for tag in (17, 18):
                parent = self.rng.choice(
                    [name for name in (*nics, *links) if name not in slaves or self.often(0.05)] or ["eth0"]
                )
                if self.often(0.3):
                    links[f"{parent}.{tag}"] = {
                        "vlan": tag,
                        "parent": parent,
                        "addresses": self.addresses(tag, n, chance=0.8),
                    }
        if "dummy" in self.kinds and self.often(0.3):
            address = "192.0.2.1/32" if self.often(0.3) else f"192.0.2.{n}/32"
            links["dum0"] = {"dummy": True, "addresses": [address]}
        if "vrf" in self.kinds and self.often(0.2):
            slaves = {slave for link in links.values() for slave in (*link.get("bond", ()), *link.get("bridge", ()))}
            inside = [name for name in (*nics, *links) if name not in slaves]
            links["red"] = {"vrf": self.rng.sample(inside, min(len(inside), self.rng.randint(1, 2))), "table": 77}
        if "loopback" in self.kinds and self.often(0.25):
            links["lo"] = {"addresses": [self.rng.choice(["10.9.9.9/32", f"10.9.9.{n}/32", f"fd00:9::{n}/128"])]}
        for link in links.values():
            if self.often(0.08) and "addresses" in link:
                link["up"] = False
            if self.often(0.08):
                link["mtu"] = self.rng.choice([1280, 1400, 1500])
        return dict(self.rng.sample(list(links.items()), len(links)))

    def enslaved(self, nics: dict[str, Any], below: Sequence[str], link: dict[str, Any], n: int) -> None:
        """The addresses are the upper one's."""
        net = self.fabrics.index(nics[below[0]]["fabric"]) if below else 40
        for name in below:
            if not self.often(self.odd / 3):
                nics[name]["addresses"] = []
        link["addresses"] = self.addresses(net, n * 10 + 9, chance=0.85)

    def routes(self, n: int, every: dict[str, Any]) -> Iterator[str]:
        up = [(name, one) for name, link in every.items() if link.get("up", True) for one in link.get("addresses", [])]
        gateways = []
        for name, address in up:
            head = address.partition("/")[0]
            if address.endswith("/24"):
                gateways.append(f"via {head.rpartition('.')[0]}.254 dev {name}")
            elif address.endswith("/64") and not head.startswith("fe80"):
                gateways.append(f"via {head.rpartition('::')[0]}::254 dev {name}")
        fours, sixes = [each for each in gateways if "." in each.split()[1]], [e for e in gateways if ":" in e]
        for family in (fours, sixes):
            if family and self.often(0.85):
                if len(family) > 1 and self.often(0.2):
                    yield "default " + " ".join(f"nexthop {each}" for each in family[:2])
                else:
                    yield f"default {self.rng.choice(family)}"
        peer = self.rng.randint(1, self.nodes)
        if fours and peer != n and self.often(0.3):
            yield f"10.244.{peer}.0/24 {self.rng.choice(fours)}"
        local = [name for name, one in up if ":" in one]
        if local and self.often(0.4):
            hop = self.rng.choice([f"fe80::{self.rng.randrange(3)}:254", "fd00:0::254"])
            to = self.rng.choice(["10.244.9.0/24", "198.51.100.0/24"])
            yield f"{to} via inet6 {hop} dev {self.rng.choice(local)}"
        if up and self.often(0.3):
            name = self.rng.choice(up)[0]
            yield self.rng.choice(
                [
                    f"198.51.100.0/24 dev {name}",
                    "blackhole 198.51.100.0/25",
                    f"203.0.113.0/24 dev {name} table 100",
                    "unreachable default metric 4000",
                    "throw default table 100",
                    f"10.1.0.0/24 dev {name} metric 5",
                    f"192.0.2.0/24 via 10.0.0.254 onlink dev {name}",
                ]
            )

    def external(self, n: int) -> dict[str, Any]:
        fabric = self.rng.randrange(len(self.fabrics))
        made: dict[str, Any] = {
            "nics": {"eth0": {"fabric": self.fabrics[fabric], "addresses": self.addresses(fabric, 200 + n)}}
        }
        if "vlan" in self.kinds and self.often(0.25):
            made["links"] = {"eth0.17": {"vlan": 17, "parent": "eth0", "addresses": self.addresses(17, 200 + n)}}
        if self.often(0.7) and 4 in self.families:
            made["routes"] = [f"default via 10.{fabric}.0.254"]
        return made

    def router(self, nodes: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "nics": {
                f"p{n}": {"fabric": name, "addresses": self.addresses(n, 254)} for n, name in enumerate(self.fabrics)
            }
        }
        near = [
            (name, nic["addresses"][0])
            for name, node in nodes.items()
            for nic in node["nics"].values()
            if nic["addresses"]
        ]
        routes = {}
        for name, address in near:
            if "." in address and self.often(0.7):
                routes[name] = f"10.244.{name[4:]}.0/24 via {address.partition('/')[0]}"
        if len(near) > 1 and 4 in self.families and self.often(0.4):
            hops = [address.partition("/")[0] for _, address in near[:2]]
            routes["any"] = "10.9.9.9/32 " + " ".join(f"nexthop via {hop}" for hop in hops)
        return {**made, "routes": [*routes.values()]}

    def service(self, n: int, pods: Sequence[str]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "type": (kind := self.rng.choice(["ClusterIP", "NodePort", "NodePort", "LoadBalancer", "LoadBalancer"])),
            "port": self.rng.choice([80, 53, 30000]) if n == 0 else 5353,
            "protocol": self.rng.choice(["tcp", "udp"]),
            "pods": self.rng.sample(list(pods), self.rng.randint(0, min(len(pods), 3))),
        }
        if self.often(0.4):
            made["target_port"] = 8080
        outside = {4: f"203.0.113.{50 + n}", 6: f"fd00:50::{n + 1}"}
        near = {4: f"10.0.0.{150 + n}", 6: f"fd00:0::{150 + n}"}
        given = [self.rng.choice([outside, near])[family] for family in self.families]
        if kind == "LoadBalancer" and self.often(0.8):
            made["load_balancer_ip"] = given
        elif self.often(0.3):
            made["external_ips"] = given
        if kind != "ClusterIP" and self.often(0.4):
            made["external_traffic_policy"] = self.rng.choice(["Local", "Cluster"])
        if kind != "ClusterIP" and self.often(0.3):
            made["node_port"] = 30080 + n
        if self.often(0.3):
            made["internal_traffic_policy"] = self.rng.choice(["Local", "Cluster"])
        if self.often(0.3):
            made["session_affinity"] = "ClientIP"
        return made

    def egress(self, nodes: dict[str, Any], pods: Sequence[str], gateways: list[str]) -> dict[str, Any]:
        interfaces = {**nodes[gateways[0]]["nics"], **nodes[gateways[0]]["links"]}
        own = [one.partition("/")[0] for each in interfaces.values() for one in each.get("addresses", [])]
        wide = ["0.0.0.0/0", "::/0", "203.0.113.0/24", "10.1.0.0/16"]
        destinations = self.rng.sample(wide if 6 in self.families else [each for each in wide if "." in each], 2)
        by = self.rng.choice(["", "interface", "egress_ip"])
        more: dict[str, Any] = {}
        if by == "interface":
            more = {by: self.rng.choice([*interfaces, "eth9" if self.often(self.odd) else "eth0"])}
        elif by and own:
            more = {by: self.rng.choice([*own, "198.51.100.77"])}
        excluded = {"excluded": ["10.1.0.0/24"]} if "10.1.0.0/16" in destinations and self.often(0.4) else {}
        chosen = {"pods": self.rng.sample(list(pods), 1)} if self.often(0.8) else {"labels": {"app": "web"}}
        return {**chosen, "destinations": destinations, "gateways": gateways, **more, **excluded}

    def announcement(self, nodes: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {"load_balancer_ips": True, "external_ips": self.often(0.5)}
        if self.often(0.6):
            patterns = [
                "^eth[0-9]+$",
                "eth0",
                "^bond",
                "br0|dum0",
                ".*",
                "^$",
                "eth[1-2]",
                "\\.17$",
                "(?i)ETH",
                "[[:alpha:]]+",
            ]
            made["interfaces"] = self.rng.sample(patterns, self.rng.randint(1, 2))
        if self.often(0.3):
            made["nodes"] = self.rng.sample(sorted(nodes), 1)
        if self.often(0.2):
            made["node_labels"] = {"role": "gateway"}
        if self.often(0.2):
            made["services"] = ["web"]
        return made

    def few(self, chance: float) -> Iterator[str]:
        """Settings that bear on the answer."""
        for key in self.rng.sample(list(_BEARING), self.rng.randint(1, 3)) if self.often(chance) else ():
            yield f"{key}={self.rng.choice(_BEARING[key])}"

    def settings(self, topology: dict[str, Any]) -> Iterator[str]:
        rng = self.rng
        names = sorted(
            {name for node in topology["nodes"].values() for name in (*node["nics"], *node.get("links", ()))}
        )
        if self.often(0.6):
            yield f"devices={','.join(rng.sample(names, rng.randint(1, len(names))))}"
        if 6 in self.families:
            yield "enable-ipv6=true"
        if self.often(0.4):
            yield from ("routing-mode=native", "ipv4-native-routing-cidr=10.244.0.0/16")
            yield "ipv6-native-routing-cidr=fd00:244::/32"
        for section, keys in _WANTED.items():
            if topology.get(section) and self.often(0.8):
                yield from (f"{key}=true" for key in keys)
        yield from self.few(0.6)
        if self.often(0.15):
            yield "bpf-lb-mode=dsr"
        for key in rng.sample(sorted(flags.agent_keys()), rng.randint(0, 4)):
            yield f"{key}={self.value(key)}"

    def value(self, key: str) -> str:
        flag = flags.table()[key]
        if key in _BEARING and self.often(0.7):
            return self.rng.choice(_BEARING[key])
        if "|" in flag.type and self.often(0.9):
            return self.rng.choice(flag.type.split("|"))
        if ".." in flag.type and "|" not in flag.type and self.often(0.9):
            low, high = map(int, flag.type.split(".."))
            return str(self.rng.choice([low, high, self.rng.randint(low, high)]))
        if flag.switch or flag.type == "bool":
            return self.rng.choice(["true", "false", "1", "F"] if self.often(1 - self.odd / 4) else _ODD)
        return self.rng.choice(_ODD)

    def ends(self, topology: dict[str, Any]) -> tuple[list[str], list[str]]:
        """What a flow may begin at, and what addresses there are."""
        hosts = {**topology["nodes"], **topology["externals"], **topology["routers"]}
        pods = [pod for node in topology["nodes"].values() for pod in node.get("pods", ())]
        interfaces = [
            (f"{host}.{name}", one.get("addresses", []))
            for host, spec in hosts.items()
            for name, one in {**spec["nics"], **spec.get("links", {})}.items()
        ]
        ends = [*pods, *pods, *pods, *topology["externals"], *topology["externals"], *(name for name, _ in interfaces)]
        addresses = [address.partition("/")[0] for _, each in interfaces for address in each]
        for service in topology.get("services", {}).values():
            addresses += [*service.get("load_balancer_ip", []), *service.get("external_ips", [])] * 2
        addresses += [
            "10.96.0.10",
            "10.96.0.11",
            "fd00:10:96::a",
            "8.8.8.8",
            "2001:db8::1",
            "10.244.1.10",
            "10.244.1.1",
        ]
        return ends, addresses

    def flows(self, topology: dict[str, Any], count: int) -> Iterator[str]:
        ends, addresses = self.ends(topology)
        services = [*topology.get("services", ())] * 2
        for _ in range(count):
            source = self.rng.choice(ends)
            if self.often(0.3):
                address = self.rng.choice(addresses)
                destination = f"[{address}]" if ":" in address else address
            else:
                destination = self.rng.choice([*(end for end in ends if end != source), *services] or ["8.8.8.8"])
            if destination in services and self.often(0.8):
                yield f"{source} -> {destination}"
                continue
            kind = self.rng.choice(["icmp", "icmp6", "tcp", "udp", "tcp", "udp6"])
            port = self.rng.choice([80, 53, 30000, 30001, 30080, 5353, 8080, 8472, 51871, 65535])
            yield f"{source} -> {destination}:{kind}" + ("" if kind.startswith("icmp") else f":{port}")

    def expected(self, topology: dict[str, Any]) -> str:
        node = topology["nodes"][f"node{self.rng.randint(1, self.nodes)}"]
        interface: str = self.rng.choice([*node["nics"], *node.get("links", ())])
        return self.rng.choice(["", "in:", "out:", "reply:"]) + self.rng.choice(["", "node1."]) + interface


def _is_fine(setting: str) -> bool:
    key, _, value = setting.partition("=")
    return flags.wrong(key, value) is None


def _repaired(made: dict[str, Any]) -> Topology | None:
    """The topology, once everything that is wrong with it is taken out of it; None where that does not end."""
    for _ in range(12):
        try:
            topology = Topology.model_validate(made)
        except ValueError:
            return None
        findings = [finding.path for finding in check(topology)]
        if not findings:
            return topology
        for path in sorted(findings, key=str, reverse=True):
            _take_out(made, path)
    return None


def _take_out(made: dict[str, Any], path: Sequence[str | int]) -> None:
    """What stands at a path, or the link that it is of; a node without any address gets one."""
    path = path[:4] if "links" in path[2:3] and path[4:5] != ("addresses",) else path
    holder: Any = made
    for part in path[:-1]:
        if (isinstance(holder, dict) and part not in holder) or (isinstance(holder, list) and int(part) >= len(holder)):
            return
        holder = holder[part]
    if path[-1] == "nics":
        next(iter(holder["nics"].values()))["addresses"] = [f"10.0.0.{int(str(path[1])[4:]) * 10 + 7}/24"]
    elif isinstance(holder, dict):
        holder.pop(path[-1], None)
    elif int(path[-1]) < len(holder):
        del holder[int(path[-1])]


_WANTED = {
    "egress_policies": ("enable-egress-gateway", "enable-ipv4-egress-gateway"),
    "l2_announcement_policies": ("enable-l2-announcements",),
    "local_redirect_policies": ("enable-local-redirect-policy",),
    "bgp": ("enable-bgp-control-plane",),
}
