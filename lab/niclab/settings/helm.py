"""Helm values of the Cilium chart, read as the chart's templates turn them into the agent's ConfigMap, and written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from niclab.errors import InputError, closest
from niclab.settings import ipmasq
from niclab.settings.flags import (
    HelmValue,
    Values,
    agent_keys,
    branches,
    complaint,
    helm_value_of,
    helm_values,
    known_paths,
    parse_bool,
    unknown,
)
from niclab.settings.model import Settings
from niclab.topology.yamlfile import Field, Reading, dotted, scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# `helm get values` prints one of these lines above the values.
HEADINGS = frozenset({"USER-SUPPLIED VALUES", "COMPUTED VALUES"})

TUNNELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "vxlan": {"routing-mode": "tunnel", "tunnel-protocol": "vxlan"},
        "geneve": {"routing-mode": "tunnel", "tunnel-protocol": "geneve"},
        "disabled": {"routing-mode": "native"},
    }
)
"""What the key `tunnel` of Cilium 1.14 and before stands for."""
OLD_REPLACEMENTS: Mapping[str, str] = MappingProxyType({"strict": "true", "partial": "false", "disabled": "false"})
"""Words for kube-proxy-replacement of Cilium 1.14 and before."""

# Read below, or by nothing of the agent: not in the table of flags, and nothing to complain of.
_CLOUDS = ("eni", "gke", "azure", "alibabacloud")
_COMPUTED = frozenset(
    {"kubeProxyReplacement", "tunnel", "encryption.enabled", "encryption.type", "aksbyocni.enabled"}
    | {f"{cloud}.enabled" for cloud in _CLOUDS}
)
_ENCRYPTIONS = ("ipsec", "wireguard", "ztunnel")
_MASQUERADED = ("ipMasqAgent", "config")
_WHOLE = (("extraConfig",), _MASQUERADED)
_MOST_UNKNOWN = 500
# The chart writes these even when they are empty, and nothing where they are 0.
_MAY_BE_EMPTY = frozenset({"devices"})
_ZERO_IS_UNSET = frozenset({"mtu", "tunnel-port"})


@dataclass
class _Chart:
    """The values of one document, `under` a field of it, and the flags they become."""

    reading: Reading
    under: Field
    values: dict[str, str] = field(default_factory=dict)
    not_agent: list[str] = field(default_factory=list)
    unknown: int = 0

    def problem(self, path: Field, why: str, fix: str) -> None:
        self.reading.problem((*self.under, *path), why, fix)

    def put(self, path: Field, key: str, value: str) -> None:
        if words := complaint(key, value):
            self.problem(path, *words)
        self.values[key] = value


def parse_helm(data: dict[str, Any], reading: Reading, under: Field) -> Settings:
    """Settings from a mapping of Helm values that stands `under` a field."""
    values = {key: value for key, value in data.items() if key not in HEADINGS}
    if isinstance(values.get("cilium"), dict):
        # The chart as a dependency of another one, whose own values stand beside it.
        return parse_helm(values["cilium"], reading, (*under, "cilium"))
    chart = _Chart(reading, under)
    before = len(reading.warnings)
    words = {str(key).split(".")[0] for key in values}
    for path, value in _leaves(values, ()):
        _read_leaf(chart, path, value)
    _computed(chart, values)
    _extra_config(chart, values.get("extraConfig"))
    if words and not words & known_paths() and not reading.problems:
        chart.problem((), "nothing in it is a Helm value or a flag", "give Helm values, a ConfigMap or KEY=VALUE lines")
    reading.problems.finish()
    if chart.not_agent:
        names = ", ".join(sorted(set(chart.not_agent)))
        reading.warnings.insert(before, f"{reading.name}: not an agent setting, left out: {names}")
    return Settings(Values(chart.values), base="chart")


def to_helm_values(values: Values) -> dict[str, Any]:
    """Helm values that the chart turns into these flags; those it has no value for stand in `extraConfig`."""
    tree: dict[str, Any] = {}
    extra: dict[str, str] = {}
    rest = dict(values)
    if parse_bool(rest.get("kube-proxy-replacement", "")) is not None:
        tree["kubeProxyReplacement"] = rest.pop("kube-proxy-replacement")
    chosen = [kind for kind in _ENCRYPTIONS if rest.get(f"enable-{kind}") == "true"]
    if len(chosen) == 1:
        del rest[f"enable-{chosen[0]}"]
        tree["encryption"] = {"enabled": True, "type": chosen[0]}
    if rest.get("enable-ip-masq-agent") == "true" and (config := _inline(rest.get("ip-masq-agent-config-path", ""))):
        del rest["ip-masq-agent-config-path"]
        tree["ipMasqAgent"] = {"config": config}
    for key, text in rest.items():
        row = helm_value_of().get(key)
        value = _written(row, text) if row else None
        if row is None or _read(row, value) != text:
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
        if isinstance(value, dict) and value and ".".join(here) not in helm_values() and here not in _WHOLE:
            yield from _leaves(value, here)
        else:
            yield here, value


def _read_leaf(chart: _Chart, path: tuple[str, ...], value: Any) -> None:
    name = ".".join(path)
    row = helm_values().get(name)
    if row is not None and row.path == path:  # not so when a key itself has dots
        try:
            text = _read(row, value)
        except TypeError as error:
            chart.problem(path, str(error), f"see the chart's values for {name}")
            return
        if text is not None:
            chart.put(path, row.flag, text)
        return
    if name in _COMPUTED or path in _WHOLE:
        return
    given = value not in (None, "", {}, [])
    mixed = path[0] in branches()
    if given and mixed and len(path) == 1:
        chart.problem(path, "a mapping is wanted", f"write the values below {name}:")
        return
    for depth in range(1, 1 + min(len(path), 2 if mixed else 1)):
        if "." in path[depth - 1] or ".".join(path[:depth]) not in known_paths():
            chart.unknown += 1
            if chart.unknown > _MOST_UNKNOWN:
                why = f"it holds more than {_MOST_UNKNOWN} values that no chart has"
                chart.problem((), why, "give the chart's own values")
                chart.reading.problems.finish()
            if _misspelled(chart, path, depth):
                return
            break
    if given:
        chart.not_agent.append(".".join(path[: 3 if path[0] == "ipam" else 2]) if mixed else path[0])


def _misspelled(chart: _Chart, path: tuple[str, ...], depth: int) -> bool:
    """Whether the path's word at this depth is no Helm value but close to one; if so, that is reported."""
    word = path[depth - 1]
    above = ".".join(path[: depth - 1])
    prefix = f"{above}." if above else ""
    siblings = {known[len(prefix) :] for known in known_paths() if known.startswith(prefix)}
    words = {sibling for sibling in siblings if "." not in sibling}
    where = path[:depth]
    if "." in word and word in helm_values():
        chart.problem(where, "this is no Helm value", "write it as nested mappings")
        return True
    folded = {sibling.lower(): sibling for sibling in words}
    if near := folded.get(word.lower()) or closest(word, frozenset(words), cutoff=0.75):
        chart.problem(where, "the chart has no such value", f"did you mean {prefix}{near}?")
        return True
    if depth == 1 and word in agent_keys():
        row = helm_value_of().get(word)
        fix = f"write {'.'.join(row.path)}" if row else "put it under extraConfig"
        chart.problem(where, "this is no Helm value", fix)
        return True
    return False


def _computed(chart: _Chart, values: dict[str, Any]) -> None:
    """What the chart decides from several values (the head of cilium-configmap.yaml and its cloud branches)."""
    flags, warn = chart.values, chart.reading.warn

    def get(*path: str) -> Any:
        here: Any = values
        for part in path:
            here = here.get(part) if isinstance(here, dict) else None
        return here

    def on(*path: str) -> bool:
        return parse_bool(scalar(get(*path))) is True

    if (replacement := scalar(get("kubeProxyReplacement"))) not in ("", "probe"):
        chart.put(("kubeProxyReplacement",), "kube-proxy-replacement", replacement)
        if now := OLD_REPLACEMENTS.get(replacement):
            warn(f'kubeProxyReplacement: "{replacement}" is of chart 1.14 and before; later ones want {now}')
    cloud = next((kind for kind in _CLOUDS if on(kind, "enabled")), None)
    if cloud:
        flags["enable-endpoint-routes"] = "true"
        flags.setdefault("auto-create-cilium-node-resource", "true")
    if cloud in ("eni", "gke"):
        flags.setdefault("routing-mode", "native")
    if cloud == "eni":
        flags["ipam"] = "eni"
        flags.setdefault("enable-ipv4-masquerade", "false")
    if (tunnel := scalar(get("tunnel"))) and "routing-mode" not in flags:
        if tunnel not in TUNNELS:
            why = f"{tunnel!r} is none of {', '.join(TUNNELS)}"
            chart.problem(("tunnel",), why, "write routingMode and tunnelProtocol")
        else:
            for key, value in TUNNELS[tunnel].items():
                flags.setdefault(key, value)
            now = "routingMode: native" if tunnel == "disabled" else f"routingMode: tunnel and tunnelProtocol: {tunnel}"
            warn(f"tunnel is a value of chart 1.14 and before; write {now}")
    if on("encryption", "enabled"):
        kind = scalar(get("encryption", "type")) or "ipsec"
        if kind in _ENCRYPTIONS:
            flags[f"enable-{kind}"] = "true"
        else:
            chart.problem(("encryption", "type"), f"{kind!r} is no encryption", "write ipsec or wireguard")
    _ip_masq_agent(chart, get(*_MASQUERADED), enabled=on("ipMasqAgent", "enabled"))
    if (chaining := flags.get("cni-chaining-mode", "none")) != "none":
        flags.setdefault("enable-host-legacy-routing", "true")
        if chaining != "portmap":
            flags.setdefault("enable-local-node-route", "false")


def _ip_masq_agent(chart: _Chart, config: Any, *, enabled: bool) -> None:
    """The chart makes a ConfigMap of it, which the agent has as a file (cilium-agent/daemonset.yaml)."""
    fix = "write nonMasqueradeCIDRs: [10.0.0.0/8] below it"
    if config in (None, "", {}):
        return
    if not isinstance(config, dict):
        chart.problem(_MASQUERADED, "a mapping is wanted", fix)
    elif not enabled:
        where = dotted((*chart.under[1:], *_MASQUERADED))
        chart.reading.warn(f"{where} is of no effect without ipMasqAgent.enabled")
    else:
        text = json.dumps(config, default=str)
        try:
            ipmasq.read(text)
        except InputError as error:
            chart.problem(_MASQUERADED, error.problems[0].why, fix)
        chart.values["ip-masq-agent-config-path"] = text


def _extra_config(chart: _Chart, extra: Any) -> None:
    if extra is None or extra == {}:
        return
    if not isinstance(extra, dict):
        chart.problem(("extraConfig",), "a mapping is wanted", "write key: value lines below it")
        return
    for key, value in extra.items():
        where = ("extraConfig", str(key))
        words = unknown(str(key))
        if isinstance(value, (dict, list)):
            chart.problem(where, "a plain value is wanted", "write it as the ConfigMap has it")
        elif words is None:
            chart.put(where, str(key), scalar(value))
        elif words[1] == "leave it out":
            chart.not_agent.append(f"extraConfig.{key}")
        else:
            chart.problem(where, *words)


def _read(row: HelmValue, value: Any) -> str | None:
    """What the chart writes for a value, None where it writes nothing; TypeError where the value has no such form."""
    if value is None:
        return None
    if isinstance(value, list):
        if row.form == "json":
            return json.dumps(value, separators=(",", ":"))
        if any(isinstance(part, (list, dict)) for part in value):
            raise TypeError("a list of plain values is wanted")
        if not value and row.flag not in _MAY_BE_EMPTY:
            return None
        # Of the forms the chart refuses, a list where it wants text, commas are what the agent reads.
        return (" " if row.form == "spaces" else ",").join(scalar(part) for part in value)
    if isinstance(value, dict):
        if row.form != "json":
            raise TypeError("a plain value is wanted, not a mapping")
        return json.dumps(value, separators=(",", ":")) if value else None
    text = scalar(value)
    if row.form == "switch" and text == "false":
        return None
    if (text == "" and row.flag not in _MAY_BE_EMPTY) or (text == "0" and row.flag in _ZERO_IS_UNSET):
        return None
    return text


def _written(row: HelmValue, text: str) -> Any:
    """A value that reads back as this text."""
    if row.form == "json":
        try:
            return json.loads(text)
        except ValueError:
            return text
    if text in ("true", "false"):
        return text == "true"
    if row.flag == "devices" and text:
        separator = "," if "," in text else " "
        parts = text.split(separator)
        return parts if separator == " " and all(parts) else text
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text
