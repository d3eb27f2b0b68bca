"""Helm values of the Cilium chart, read as the chart's templates turn them into the agent's ConfigMap."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from niclab.errors import InputError, Problem, Problems, closest
from niclab.settings import ipmasq
from niclab.settings.flags import agent_keys
from niclab.settings.helm_table import branches, flag_of, known_paths, read, row_of_flag, rows, scalar, written
from niclab.settings.keys import key_problem
from niclab.settings.model import Settings
from niclab.settings.values import Values, complaint, parse_bool
from niclab.topology.yamlfile import Field, LineOf, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

# `helm get values` prints one of these lines above the values.
HEADINGS = frozenset({"USER-SUPPLIED VALUES", "COMPUTED VALUES"})

# Read below, or by nothing of the agent: no table row, and nothing to complain of.
_COMPUTED = frozenset(
    {"kubeProxyReplacement", "tunnel", "encryption.enabled", "encryption.type", "eni.enabled", "azure.enabled"}
    | {"gke.enabled", "alibabacloud.enabled", "aksbyocni.enabled"}
)
_MASQUERADED = ("ipMasqAgent", "config")
_WHOLE = (("extraConfig",), _MASQUERADED)


_MOST_UNKNOWN = 500


@dataclass
class _Reading:
    """The state of reading one document."""

    name: str
    line_of: LineOf
    document: int
    values: dict[str, str] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    not_agent: list[str] = field(default_factory=list)
    unknown: int = 0
    warnings: list[str] = field(default_factory=list)

    def problem(self, path: Field, why: str, fix: str) -> None:
        self.problems.append(Problem(self.name, self.line_of(self.document, path), dotted(path), why, fix))

    def put(self, path: Field, key: str, value: str) -> None:
        if words := complaint(key, value):
            self.problem(path, *words)
        self.values[key] = value


def parse_helm(data: dict[str, Any], name: str, line_of: LineOf, *, document: int = 0, under: Field = ()) -> Settings:
    """Settings from a mapping of Helm values that stands `under` a field of the document."""
    values = {key: value for key, value in data.items() if key not in HEADINGS}
    if isinstance(values.get("cilium"), dict):
        # The chart as a dependency of another one, whose own values stand beside it.
        return parse_helm(values["cilium"], name, line_of, document=document, under=(*under, "cilium"))
    reading = _Reading(name, line_of, document)
    words = {str(key).split(".")[0] for key in values}
    for path, value in _leaves(values, ()):
        _read_leaf(reading, under, path, value)
    _computed(reading, under, values)
    _extra_config(reading, under, values.get("extraConfig"))
    if words and not words & known_paths() and not reading.problems:
        reading.problem(
            under, "nothing in it is a Helm value or a flag", "give Helm values, a ConfigMap or KEY=VALUE lines"
        )
    reading.problems.finish()
    if reading.not_agent:
        names = ", ".join(sorted(set(reading.not_agent)))
        reading.warnings.insert(0, f"{name}: not an agent setting, left out: {names}")
    return Settings(Values(reading.values), warnings=tuple(reading.warnings), base="chart")


def to_helm_values(values: Values) -> dict[str, Any]:
    """Helm values that the chart turns into these flags; those it has no value for stand in `extraConfig`."""
    tree: dict[str, Any] = {}
    extra: dict[str, str] = {}
    rest = dict(values)
    if parse_bool(rest.get("kube-proxy-replacement", "")) is not None:
        tree["kubeProxyReplacement"] = rest.pop("kube-proxy-replacement")
    chosen = [kind for kind in ("ipsec", "wireguard", "ztunnel") if rest.get(f"enable-{kind}") == "true"]
    if len(chosen) == 1:
        del rest[f"enable-{chosen[0]}"]
        tree["encryption"] = {"enabled": True, "type": chosen[0]}
    if rest.get("enable-ip-masq-agent") == "true" and (config := _inline(rest.get("ip-masq-agent-config-path", ""))):
        del rest["ip-masq-agent-config-path"]
        tree["ipMasqAgent"] = {"config": config}
    for key, text in rest.items():
        row = row_of_flag().get(key)
        value = written(row, text) if row else None
        if row is None or read(row, value) != text:
            extra[key] = text
            continue
        here = tree
        for part in row.path[:-1]:
            here = here.setdefault(part, {})
        here[row.path[-1]] = value
    if extra:
        tree["extraConfig"] = extra
    return tree


def _inline(text: str) -> dict[str, Any] | None:
    """What stands for the file that ip-masq-agent-config-path names, as one that reads back alike."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) and json.dumps(data) == text else None


def _leaves(data: dict[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no mapping, or that the table takes as a whole."""
    for key, value in data.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value and ".".join(here) not in rows() and here not in _WHOLE:
            yield from _leaves(value, here)
        else:
            yield here, value


def _read_leaf(reading: _Reading, under: Field, path: tuple[str, ...], value: Any) -> None:
    name = ".".join(path)
    where = (*under, *path)
    row = rows().get(name)
    if row is not None and row.path == path:  # not so when a key itself has dots
        try:
            text = read(row, value)
        except TypeError as error:
            reading.problem(where, str(error), f"see the chart's values for {name}")
            return
        if text is not None:
            reading.put(where, row.flag, text)
        return
    if name in _COMPUTED or path in _WHOLE:
        return
    given = value not in (None, "", {}, [])
    mixed = path[0] in branches()
    if given and mixed and len(path) == 1:
        reading.problem(where, "a mapping is wanted", f"write the values below {name}:")
        return
    for depth in range(1, 1 + min(len(path), 2 if mixed else 1)):
        if "." in path[depth - 1] or ".".join(path[:depth]) not in known_paths():
            reading.unknown += 1
            if reading.unknown > _MOST_UNKNOWN:
                why = f"it holds more than {_MOST_UNKNOWN} values that no chart has"
                reading.problem(under, why, "give the chart's own values")
                reading.problems.finish()
            if _misspelled(reading, under, path, depth):
                return
            break
    if given:
        reading.not_agent.append(".".join(path[: 3 if path[0] == "ipam" else 2]) if mixed else path[0])


def _misspelled(reading: _Reading, under: Field, path: tuple[str, ...], depth: int) -> bool:
    """Whether the path's word at this depth is no Helm value but close to one; if so, that is reported."""
    word = path[depth - 1]
    above = ".".join(path[: depth - 1])
    prefix = f"{above}." if above else ""
    siblings = {known[len(prefix) :] for known in known_paths() if known.startswith(prefix)}
    words = {sibling for sibling in siblings if "." not in sibling}
    where = (*under, *path[:depth])
    if "." in word and flag_of(word):
        reading.problem(where, "this is no Helm value", "write it as nested mappings")
        return True
    folded = {sibling.lower(): sibling for sibling in words}
    if near := folded.get(word.lower()) or closest(word, frozenset(words), cutoff=0.75):
        reading.problem(where, "the chart has no such value", f"did you mean {prefix}{near}?")
        return True
    if depth == 1 and word in agent_keys():
        row = row_of_flag().get(word)
        fix = f"write {'.'.join(row.path)}" if row else "put it under extraConfig"
        reading.problem(where, "this is no Helm value", fix)
        return True
    return False


def _computed(reading: _Reading, under: Field, values: dict[str, Any]) -> None:
    """What the chart decides from several values (the head of cilium-configmap.yaml and its cloud branches)."""

    def get(*path: str) -> Any:
        here: Any = values
        for part in path:
            here = here.get(part) if isinstance(here, dict) else None
        return here

    def on(*path: str) -> bool:
        return parse_bool(scalar(get(*path))) is True

    if (replacement := scalar(get("kubeProxyReplacement"))) not in ("", "probe"):
        reading.put((*under, "kubeProxyReplacement"), "kube-proxy-replacement", replacement)
        if replacement in ("strict", "partial", "disabled"):
            now = "true" if replacement == "strict" else "false"
            words = f'kubeProxyReplacement: "{replacement}" is of chart 1.14 and before; later ones want {now}'
            reading.warnings.append(f"{reading.name}: {words}")
    cloud = next((kind for kind in ("eni", "gke", "azure", "alibabacloud") if on(kind, "enabled")), None)
    if cloud:
        reading.values["enable-endpoint-routes"] = "true"
        reading.values.setdefault("auto-create-cilium-node-resource", "true")
    if cloud in ("eni", "gke"):
        reading.values.setdefault("routing-mode", "native")
    if cloud == "eni":
        reading.values["ipam"] = "eni"
        reading.values.setdefault("enable-ipv4-masquerade", "false")
    if (tunnel := scalar(get("tunnel"))) and "routing-mode" not in reading.values:
        _legacy_tunnel(reading, (*under, "tunnel"), tunnel)
    if on("encryption", "enabled"):
        kind = scalar(get("encryption", "type")) or "ipsec"
        if kind in ("ipsec", "wireguard", "ztunnel"):
            reading.values[f"enable-{kind}"] = "true"
        else:
            reading.problem((*under, "encryption", "type"), f"{kind!r} is no encryption", "write ipsec or wireguard")
    _ip_masq_agent(reading, (*under, *_MASQUERADED), get(*_MASQUERADED), enabled=on("ipMasqAgent", "enabled"))
    if (chaining := reading.values.get("cni-chaining-mode", "none")) != "none":
        reading.values.setdefault("enable-host-legacy-routing", "true")
        if chaining != "portmap":
            reading.values.setdefault("enable-local-node-route", "false")


def _ip_masq_agent(reading: _Reading, where: Field, config: Any, *, enabled: bool) -> None:
    """The chart makes a ConfigMap of it, which the agent has as a file (cilium-agent/daemonset.yaml)."""
    if config in (None, "", {}):
        return
    if not isinstance(config, dict):
        reading.problem(where, "a mapping is wanted", "write nonMasqueradeCIDRs: [10.0.0.0/8] below it")
    elif not enabled:
        reading.warnings.append(f"{reading.name}: {dotted(where)} is of no effect without ipMasqAgent.enabled")
    else:
        text = json.dumps(config, default=str)
        try:
            ipmasq.read(text)
        except InputError as error:
            reading.problem(where, error.problems[0].why, "write nonMasqueradeCIDRs: [10.0.0.0/8] below it")
        reading.values["ip-masq-agent-config-path"] = text


def _legacy_tunnel(reading: _Reading, where: Field, tunnel: str) -> None:
    if tunnel not in ("vxlan", "geneve", "disabled"):
        reading.problem(where, f"{tunnel!r} is none of vxlan, geneve, disabled", "write routingMode and tunnelProtocol")
        return
    reading.values["routing-mode"] = "native" if tunnel == "disabled" else "tunnel"
    if tunnel != "disabled":
        reading.values.setdefault("tunnel-protocol", tunnel)
    now = "routingMode: native" if tunnel == "disabled" else f"routingMode: tunnel and tunnelProtocol: {tunnel}"
    reading.warnings.append(f"{reading.name}: tunnel is a value of chart 1.14 and before; write {now}")


def _extra_config(reading: _Reading, under: Field, extra: Any) -> None:
    if extra is None or extra == {}:
        return
    if not isinstance(extra, dict):
        reading.problem((*under, "extraConfig"), "a mapping is wanted", "write key: value lines below it")
        return
    for key, value in extra.items():
        where = (*under, "extraConfig", str(key))
        problem = key_problem(str(key), reading.name, reading.line_of(reading.document, where))
        if isinstance(value, (dict, list)):
            reading.problem(where, "a plain value is wanted", "write it as the ConfigMap has it")
        elif problem is None:
            reading.put(where, str(key), scalar(value))
        elif problem.fix == "leave it out":
            reading.not_agent.append(f"extraConfig.{key}")
        else:
            reading.problem(where, problem.why, problem.fix)
