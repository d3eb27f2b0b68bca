"""Random labs: topologies, settings, versions and flows, from any source of randomness. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from niclab.check.topology import check, check_flow
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import VERSIONS, Version
from niclab.kernel.routing import check_route, check_rule
from niclab.net.route import parse_route, parse_rule
from niclab.settings import LAB_BASELINE, NodeSettings, Settings
from niclab.settings.flags import Values
from niclab.topology.model import Flow, Host, Topology

ANYCAST = "10.9.9.9"
"""What several nodes may have on lo."""


@dataclass(frozen=True)
class RandomLab:
    """A lab that can be built, and what to send in it."""

    topology: Topology
    settings: Settings
    version: Version
    flows: tuple[Flow, ...]

    def __str__(self) -> str:
        """What reproduces it by hand."""
        shown = json.dumps(self.topology.model_dump(mode="json", exclude_defaults=True))
        values = {key: value for key, value in self.settings.values.items() if LAB_BASELINE.values.get(key) != value}
        more = [f"{node.name}: {dict(node.values)}" for node in self.settings.per_node]
        return f"{shown}\n{values} {more} {self.version}"


def random_lab(rng: Random, *, flows: int = 12) -> RandomLab | None:
    """A lab, or None where chance made one that cannot be."""
    made = _Maker(rng)
    topology = Topology.model_validate(made.topology())
    topology = _with_routes(topology, made)
    if next(check(topology), None):
        return None
    settings, version = made.settings(topology), rng.choice(VERSIONS)
    running = Decisions(topology, settings, version).running
    return RandomLab(topology, settings, version, tuple(made.flows(topology, running, flows)))


def alike_lab(rng: Random) -> RandomLab | None:
    """Four nodes of one or two kinds, each made as the others of its kind are."""
    made = _Maker(rng)
    made.nodes = 4
    drawn = made.topology()
    kinds = [rng.randrange(1 << 30) for _ in range(rng.randint(1, 2))]
    for n in range(1, 5):
        made.rng = Random(kinds[n % len(kinds)])
        node = made.node(n)
        first = next(iter(node["nics"].values()))["fabric"]
        node["routes"] = [f"default via 10.{first[1:]}.0.254 onlink dev eth0"] if made.often(0.7) else []
        if made.often(0.3):
            node["rules"] = [f"from 10.244.{n}.0/24 lookup 100"]
        drawn["nodes"][f"node{n}"] = node
    made.rng = rng
    topology = Topology.model_validate(drawn)
    if next(check(topology), None):
        return None
    return RandomLab(topology, made.settings(topology), rng.choice(VERSIONS), ())


_MODES = ("active-backup", "balance-rr", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")


def linked_lab(rng: Random, *, flows: int = 6) -> RandomLab | None:
    """Nodes with every kind of link, and policies about them; or None where chance made one that cannot be."""
    names = ["eth0", "eth1", "eth2", "bond0", "bond0.17", "br0", "dum0", "red", "lo"]

    def often(chance: float) -> bool:
        return rng.random() < chance

    def addressed(link: dict[str, Any], *addresses: str) -> dict[str, Any]:
        return link | ({"addresses": list(addresses)} if often(0.7) else {})

    def node(n: int) -> dict[str, Any]:
        links = {
            "bond0": addressed({"bond": ["eth1", "eth2"], "mode": rng.choice(_MODES)}, f"10.1.0.{n}/24"),
            "bond0.17": addressed({"vlan": 17, "parent": "bond0"}, f"10.17.0.{n}/24"),
            "br0": addressed({"bridge": rng.choice([[], "eth3"])}, f"10.2.0.{n}/24"),
            "red": {"vrf": "eth0" if often(0.1) else "br0", "table": 77},
            "dum0": addressed({"dummy": True}, f"192.0.2.{n}/32"),
            "lo": {"addresses": [ANYCAST + "/32"]},
        }
        nics: dict[str, Any] = {"eth0": {"fabric": "f0", "addresses": [f"10.0.0.{n}/24", f"fd00::{n}/64"]}}
        nics |= {name: {"fabric": "trunk", "up": not often(0.1)} for name in ("eth1", "eth2")}
        nics["eth3"] = {"fabric": "f2"}
        gateway = rng.choice(["10.0.0.254 dev eth0", "10.17.0.254 onlink dev bond0.17", "10.1.0.254 onlink dev bond0"])
        kept = {name: link for name, link in links.items() if name in ("bond0", "br0") or often(0.8)}
        return {
            "nics": nics,
            "links": kept if "red" not in kept or "eth0" not in str(kept["red"]) else links,
            "routes": [f"default via {gateway}"],
            "pod_cidrs": [f"10.244.{n}.0/24", f"fd00:244:{n}::/64"],
            "pods": [f"pod{n}"],
        }

    policy = rng.choice([{}, {"interface": rng.choice(names)}, {"egress_ip": rng.choice(["10.17.0.1", "203.0.113.9"])}])
    announcing = {"load_balancer_ips": True, "interfaces": rng.choice([[], ["^bond0"], ["eth", "br"]])}
    tagged = {"eth0.17": {"vlan": 17, "parent": "eth0", "addresses": ["10.17.0.9/24"]}}
    made = {
        "name": "linked",
        "fabrics": {"f0": {}, "trunk": {}, "f2": {}},
        "nodes": {f"node{n}": node(n) for n in range(1, rng.randint(2, 4))},
        "externals": {
            "plain": {"nics": {"eth0": {"fabric": rng.choice(["f0", "trunk"]), "addresses": ["10.0.0.9/24"]}}},
            "tagged": {"nics": {"eth0": {"fabric": "trunk"}}, "links": tagged},
        },
        "services": {
            "web": {
                "type": "LoadBalancer",
                "port": 80,
                "load_balancer_ip": ["10.17.0.50", "fd00::50"],
                "pods": ["pod1"],
            }
        },
        "egress_policies": {"out": {"pods": ["pod1"], "destinations": ["0.0.0.0/0"], "gateways": ["node1"], **policy}},
        "l2_announcement_policies": {"vips": announcing} if often(0.7) else {},
    }
    try:
        topology = Topology.model_validate(made)
    except ValueError:
        return None
    for name, host in topology.nodes.items():
        kept = tuple(route for route in host.routes if check_route(host, route) is None)
        topology = _changed(topology, name, routes=kept)
    if next(check(topology), None):
        return None
    choices: dict[str, Sequence[str]] = {
        "devices": ["", "eth0", "eth+,bond0", "bond+", "bond0,bond0.17", "eth1,bond0.17", ",".join(names)],
        "vlan-bpf-bypass": ["", "0", "17", "4 17"],
        "routing-mode": ["tunnel", "native"],
        "tunnel-protocol": ["vxlan", "geneve"],
        "underlay-protocol": ["auto", "ipv4", "ipv6"],
        "bpf-lb-mode": ["snat", "snat", "dsr"],
        "bpf-lb-dsr-dispatch": ["opt", "geneve"],
        "ipv4-native-routing-cidr": ["10.244.0.0/16"],
        "ipv6-native-routing-cidr": ["fd00:244::/32"],
        **dict.fromkeys(("enable-egress-gateway", "enable-l2-announcements", "enable-ipv6"), ("true", "false")),
        **dict.fromkeys(("enable-wireguard", "encrypt-node", "auto-direct-node-routes"), ("false", "false", "true")),
        **dict.fromkeys(("enable-bpf-masquerade", "kube-proxy-replacement"), ("true", "true", "false")),
    }
    settings = LAB_BASELINE.merged(Settings(Values({key: rng.choice(values) for key, values in choices.items()})))
    ends = ["pod1", "plain", "tagged", *(f"node1.{name}" for name in topology.nodes["node1"].interfaces)]
    texts = [f"{a} -> {b}" for a, b in itertools.permutations([*ends, *topology.pods], 2)]
    texts += [f"{end} -> web:tcp:80" for end in ("pod1", "plain", "tagged")]
    asked = [Flow.parse(text) for text in rng.sample(texts, flows)]
    kept_flows = tuple(flow for flow in asked if check_flow(topology, flow) is None)
    return RandomLab(topology, settings, rng.choice(VERSIONS), kept_flows)


class _Maker:
    """Draws one lab. Addresses say whose they are: 10.FABRIC.0.NUMBER, pods 10.244.NODE.NUMBER."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.fabrics = [f"f{n}" for n in range(rng.randint(1, 3))]
        self.dual = rng.random() < 0.3
        self.nodes = rng.randint(1, 4)
        self.router = rng.random() < 0.7

    def often(self, chance: float) -> bool:
        return self.rng.random() < chance

    def topology(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": "random",
            "fabrics": {name: {} for name in self.fabrics},
            "nodes": {f"node{n}": self.node(n) for n in range(1, self.nodes + 1)},
            "externals": {f"ext{n}": self._external(n) for n in range(self.rng.randint(0, 2))},
            "routers": {"gw": self._gateway()} if self.router else {},
        }
        return made

    def _addresses(self, fabric: int, number: int) -> list[str]:
        addresses = [f"10.{fabric}.0.{number}/24"]
        return [*addresses, f"fd00:{fabric}::{number}/64"] if self.dual else addresses

    def node(self, n: int) -> dict[str, Any]:
        nics: dict[str, Any] = {}
        for index in range(self.rng.randint(1, 4)):
            fabric = index if index < len(self.fabrics) and self.often(0.8) else self.rng.randrange(len(self.fabrics))
            addresses = self._addresses(fabric, n * 10 + index)
            if self.often(0.1):
                addresses = []
            elif self.often(0.15):
                addresses.append(
                    self.rng.choice([f"10.{fabric}.0.{n * 10 + index + 100}/24", f"172.16.{n}.{index}/32"])
                )
            elif self.often(0.05):
                addresses.append(f"203.0.113.{n * 10 + index}/24")
            nics[f"eth{index}"] = {
                "fabric": self.fabrics[fabric],
                "addresses": addresses,
                "up": not self.often(0.08),
                "mtu": self.rng.choice([1500, 1500, 1500, 1400, 9000]),
            }
        node: dict[str, Any] = {
            "nics": nics,
            "pod_cidrs": [f"10.244.{n}.0/24", *([f"fd00:244:{n}::/64"] if self.dual else [])],
            "pods": [f"pod{n}{letter}" for letter in "ab"[: self.rng.choice([0, 1, 1, 2])]],
        }
        if self.often(0.15):
            node["links"] = {"lo": {"addresses": [f"{ANYCAST}/32"]}}
        own = [one.partition("/")[0] for nic in nics.values() for one in nic["addresses"] if ":" not in one]
        if own and self.often(0.3):
            node["node_ip"] = [self.rng.choice(own)]
        if self.often(0.1):
            node["sysctls"] = {"net.ipv4.fib_multipath_hash_policy": 1}
        if self.often(0.25):
            links = [*nics, *(["all"] if self.often(0.2) else []), *(["default"] if self.often(0.2) else [])]
            filters = {f"net.ipv4.conf.{link}.rp_filter": self.rng.randrange(3) for link in links}
            node["sysctls"] = {**node.get("sysctls", {}), **filters}
        return node

    def _external(self, n: int) -> dict[str, Any]:
        fabric = self.rng.randrange(len(self.fabrics))
        return {"nics": {"eth0": {"fabric": self.fabrics[fabric], "addresses": self._addresses(fabric, 200 + n)}}}

    def _gateway(self) -> dict[str, Any]:
        return {
            "nics": {
                f"p{n}": {"fabric": name, "addresses": self._addresses(n, 254)} for n, name in enumerate(self.fabrics)
            }
        }

    def routes(self, name: str, topology: Topology) -> Iterator[str]:
        """Words of routes that may fit a host."""
        host = topology.hosts[name]
        fabrics = sorted({int(nic.fabric[1:]) for nic in host.nics.values()})
        gateways = [f"10.{fabric}.0.254" for fabric in fabrics]
        is_node, is_external = name in topology.nodes, name in topology.externals
        if is_node and self.often(0.85):
            yield from self._defaults(gateways)
        if is_external and self.often(0.5):
            yield f"default via {gateways[0]}"
        if self.dual and self.often(0.6) and not name.startswith("gw"):
            yield f"default via fd00:{self.rng.choice(fabrics)}::254"
        for peer, node in topology.nodes.items():
            if peer == name:
                continue
            number = peer.removeprefix("node")
            near = [
                str(nic.addresses[0].ip)
                for nic in node.nics.values()
                if nic.addresses and nic.addresses[0].version == 4 and int(nic.fabric[1:]) in fabrics
            ]
            chance = 0.25 if is_node else 0.8
            if near and self.often(chance):
                if len(near) > 1 and self.often(0.4):
                    hops = " ".join(f"nexthop via {one}" for one in self.rng.sample(near, 2))
                    yield f"10.244.{number}.0/24 {hops}"
                else:
                    yield f"10.244.{number}.0/24 via {self.rng.choice(near)}"
        if is_node and self.often(0.3):
            yield from self._odd(host, gateways)
        if name in topology.routers:
            yield from self._anycast(topology)

    def _anycast(self, topology: Topology) -> Iterator[str]:
        """A router's routes to an address that several nodes have."""
        having = [node for node in topology.nodes.values() if "lo" in node.links]
        near = [str(nic.addresses[0].ip) for node in having for nic in node.nics.values() if nic.addresses]
        near = [address for address in near if address.startswith("10.")]
        if near:
            hops = self.rng.sample(near, min(len(near), 2))
            words = " ".join(f"nexthop via {hop}" for hop in hops) if len(hops) > 1 else f"via {hops[0]}"
            yield f"{ANYCAST}/32 {words}"

    def _defaults(self, gateways: Sequence[str]) -> Iterator[str]:
        if len(gateways) > 1 and self.often(0.2):
            yield "default " + " ".join(f"nexthop via {gateway}" for gateway in gateways[:2])
            return
        for metric, gateway in enumerate(self.rng.sample(list(gateways), len(gateways))):
            yield f"default via {gateway}" + (f" metric {metric * 100}" if metric else "")
            if self.often(0.6):
                return

    def _odd(self, host: Host, gateways: Sequence[str]) -> Iterator[str]:
        """Other tables, more specific routes, routes that refuse."""
        nic = self.rng.choice(list(host.nics))
        gateway = self.rng.choice(gateways)
        choices = [
            f"default via {gateway} table 100",
            f"10.244.0.0/16 via {gateway} table 100",
            f"10.{self.rng.randrange(3)}.0.0/25 dev {nic}",
            f"10.{self.rng.randrange(3)}.0.200/32 via {gateway}",
            "unreachable 10.2.0.0/16",
            "blackhole 10.244.3.0/25",
            "throw default table 100",
            f"192.0.2.0/24 dev {nic}",
        ]
        yield from self.rng.sample(choices, 3)

    def rules(self, name: str, topology: Topology) -> Iterator[str]:
        if name not in topology.nodes or not self.often(0.3):
            return
        node = topology.nodes[name]
        number = name.removeprefix("node")
        own = [str(i.ip) for nic in node.nics.values() for i in nic.addresses if i.version == 4] or ["10.9.9.9"]
        choices = [
            f"from 10.244.{number}.0/24 lookup 100",
            f"from {self.rng.choice(own)} lookup 100 priority 1000",
            f"to 10.{self.rng.randrange(3)}.0.0/24 lookup 100",
            f"iif {self.rng.choice(list(node.nics))} lookup 100",
            f"not from 10.244.{number}.0/24 lookup 100 priority 5",
            "fwmark 0x200/0xf00 lookup 100 priority 9",
            "to 10.1.0.200/32 unreachable priority 400",
            "from 10.244.2.0/24 prohibit priority 30000",
        ]
        yield from self.rng.sample(choices, self.rng.randint(1, 2))

    def settings(self, topology: Topology) -> Settings:
        rng = self.rng
        values: dict[str, str] = {}
        names = sorted({nic for node in topology.nodes.values() for nic in node.nics})
        if self.often(0.75):
            entries = rng.sample(names, rng.randint(1, len(names)))
            entries += rng.sample(["eth+", "eth9", "!eth0", "!eth1", "lo", "et+"], rng.choice([0, 0, 1, 2]))
            rng.shuffle(entries)
            values["devices"] = ",".join(entries)
        if self.often(0.15):
            values["force-device-detection"] = "true"
        if self.often(0.25):
            values["direct-routing-device"] = rng.choice([*names, "eth9", "eth+"])
        if self.often(0.5):
            values["routing-mode"] = "native"
            if self.often(0.9):
                values["ipv4-native-routing-cidr"] = rng.choice(
                    ["10.244.0.0/16", "10.244.0.0/16", "10.0.0.0/8", "10.1.0.0/24"]
                )
                values["ipv6-native-routing-cidr"] = "fd00:244::/32"
            values["auto-direct-node-routes"] = rng.choice(["true", "true", "false"])
            values["direct-routing-skip-unreachable"] = rng.choice(["true", "false"])
        elif self.often(0.1):
            values["tunnel-protocol"] = "geneve"
        if self.dual:
            values["enable-ipv6"] = rng.choice(["true", "true", "false"])
        values |= self._masquerading(names)
        values["enable-endpoint-routes"] = rng.choice(["true", "false", "false"])
        values["enable-host-legacy-routing"] = rng.choice(["true", "false", "false"])
        if self.often(0.1):
            values["kube-proxy-replacement"] = "false"
        if self.often(0.1):
            values["mtu"] = rng.choice(["1400", "9000"])
        per_node = []
        if self.often(0.2):
            node = rng.choice(list(topology.nodes))
            per_node.append(NodeSettings.of(node, {"devices": ",".join(rng.sample(names, 1))}))
        return LAB_BASELINE.merged(Settings(Values(values), tuple(per_node)))

    def _masquerading(self, names: Sequence[str]) -> dict[str, str]:
        kind = self.rng.choice(
            ["bpf", "bpf", "bpf", "bpf", "iptables", "iptables", "iptables", "interfaces", "off", "odd"]
        )
        if kind == "bpf":
            return {}
        values = {"enable-bpf-masquerade": "false"}
        if kind == "interfaces":
            values["egress-masquerade-interfaces"] = self.rng.choice([*names, "eth+"])
        if kind == "off":
            values |= {"enable-ipv4-masquerade": "false", "enable-ipv6-masquerade": "false"}
        if kind == "odd":
            values = {"enable-ipv4-masquerade": self.rng.choice(["true", "false"])}
        return values

    def flows(self, topology: Topology, running: Collection[str], count: int) -> Iterator[Flow]:
        """Mostly from or to pods that are plugged."""
        plugged = [pod for pod, (node, _) in topology.pods.items() if node in running or self.often(0.1)]
        ends = [*plugged, *topology.externals]
        ends += [f"{host}.{nic}" for host, nic, one in topology.nic_pairs() if one.addresses]
        pairs = [
            (a, b)
            for a, b in itertools.product(ends, ends)
            if a.partition(".")[0] != b.partition(".")[0] and not a.startswith("gw")
        ]
        from_pods = [pair for pair in pairs if pair[0] in topology.pods or pair[1] in topology.pods]
        wanted = [*self.rng.sample(from_pods, min(len(from_pods), count * 3 // 4))]
        wanted += self.rng.sample(pairs, min(len(pairs), count - len(wanted)))
        for source, destination in wanted:
            family = 6 if self.dual and self.often(0.4) else None
            protocol = self.rng.choice(["icmp", "icmp", "udp", "tcp"])
            port = None if protocol == "icmp" else 5000
            flow = Flow.model_validate(
                {"source": source, "destination": destination, "protocol": protocol, "port": port, "family": family}
            )
            if self.often(0.15):
                flow = self._to_address(topology, flow)
            if check_flow(topology, flow) is None:
                yield flow

    def _to_address(self, topology: Topology, flow: Flow) -> Flow:
        """The same to any address: somebody's, everybody's or nobody's."""
        others = [host for name, host in topology.hosts.items() if name != flow.source.partition(".")[0]]
        every = [str(address) for host in others for address in host.addresses] + [ANYCAST, "192.0.2.77"]
        suffix = "" if flow.port is None else f":{flow.protocol}:{flow.port}"
        address = self.rng.choice(every)
        return Flow.parse(f"{flow.source} -> {f'[{address}]' if ':' in address else address}{suffix}")


def _with_routes(topology: Topology, made: _Maker) -> Topology:
    """The topology with routes and rules that its hosts' kernels take."""
    for name in topology.hosts:
        for text in made.routes(name, topology):
            route, host = parse_route(text), topology.hosts[name]
            if check_route(host, route) is None:
                topology = _changed(topology, name, routes=(*host.routes, route))
        for text in made.rules(name, topology):
            rule, host = parse_rule(text), topology.hosts[name]
            if check_rule(host, rule) is None:
                topology = _changed(topology, name, rules=(*host.rules, rule))
    return topology


def _changed(topology: Topology, name: str, **update: object) -> Topology:
    for section in ("nodes", "externals", "routers"):
        hosts = getattr(topology, section)
        if name in hosts:
            changed = {**hosts, name: hosts[name].model_copy(update=update)}
            return topology.model_copy(update={section: changed})
    raise KeyError(name)
