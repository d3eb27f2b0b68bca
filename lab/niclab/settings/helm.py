"""Helm values of the Cilium chart, read as the chart's templates turn them into the agent's ConfigMap, and written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from niclab.errors import InputError, Problem, closest
from niclab.settings import Settings, flags, ipmasq
from niclab.settings.flags import MINORS, HelmValue, Values
from niclab.topology.yamlfile import Field, Reading, dotted, scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
_ARGUMENTS = (("extraArgs",), ("extraEnv",))
_MOST_UNKNOWN = 500
# The chart writes these even when they are empty, and nothing where they are 0.
_MAY_BE_EMPTY = frozenset({"devices"})
_ZERO_IS_UNSET = frozenset({"mtu", "tunnel-port"})


@dataclass
class _Chart:
    """The values of one document, `under` a field of it, and the flags they become in the chart of a version.

    `strict`: what no chart has is an error. Charts ignore such, and so does a file of values, with a warning.
    """

    reading: Reading
    under: Field
    version: str
    strict: bool
    values: dict[str, str] = field(default_factory=dict)
    not_agent: list[str] = field(default_factory=list)
    unknown: int = 0

    @property
    def minor(self) -> int:
        return flags.minor_of(self.version) if self.version else MINORS[-1]

    @property
    def others(self) -> str:
        return f"{self.version} ignores" if self.version else "later ones ignore"

    def problem(self, path: Field, why: str, fix: str) -> None:
        self.reading.problem((*self.under, *path), why, fix)

    def ignored(self, path: Field, why: str, fix: str) -> None:
        """What another chart has is ignored by this one."""
        self.reading.warn(f"{why}{fix and f'; {fix}'}", (*self.under, *path))

    def put(self, path: Field, key: str, value: str) -> None:
        if words := flags.complaint(key, value):
            self.problem(path, *words)
        self.values[key] = value


def parse_helm(
    data: dict[str, Any], reading: Reading, under: Field, *, version: str = "", strict: bool = False
) -> Settings:
    """Settings from a mapping of Helm values that stands `under` a field, for the chart of a version."""
    values = {key: value for key, value in data.items() if key not in HEADINGS}
    if isinstance(values.get("cilium"), dict):
        # The chart as a dependency of another one, whose own values stand beside it.
        return parse_helm(values["cilium"], reading, (*under, "cilium"), version=version, strict=strict)
    chart = _Chart(reading, under, version, strict)
    before = len(reading.warnings)
    words = {str(key).split(".")[0] for key in values}
    known = flags.chart_words("") | {path.split(".")[0] for path in flags.old_values()} | {"global"}
    if words and not words & known and not strict:
        chart.problem((), "nothing in it is a Helm value or a flag", "give Helm values, a ConfigMap or KEY=VALUE lines")
        reading.problems.finish()
    for path, value in _leaves(values, ()):
        _read_leaf(chart, path, value)
    _computed(chart, values)
    _extra_config(chart, values.get("extraConfig"))
    _arguments(chart, values.get("extraEnv"), values.get("extraArgs"))
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
    if flags.parse_bool(rest.get("kube-proxy-replacement", "")) is not None:
        tree["kubeProxyReplacement"] = rest.pop("kube-proxy-replacement")
    chosen = [kind for kind in _ENCRYPTIONS if rest.get(f"enable-{kind}") == "true"]
    if len(chosen) == 1:
        del rest[f"enable-{chosen[0]}"]
        tree["encryption"] = {"enabled": True, "type": chosen[0]}
    if rest.get("enable-ip-masq-agent") == "true" and (config := _inline(rest.get("ip-masq-agent-config-path", ""))):
        del rest["ip-masq-agent-config-path"]
        tree["ipMasqAgent"] = {"config": config}
    for key, text in rest.items():
        row = flags.helm_value_of().get(key)
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
        if isinstance(value, dict) and value and ".".join(here) not in flags.helm_values() and here not in _WHOLE:
            yield from _leaves(value, here)
        else:
            yield here, value


def _read_leaf(chart: _Chart, path: tuple[str, ...], value: Any) -> None:
    if not _has(chart, path):
        return
    name = ".".join(path)
    if row := flags.helm_values(chart.minor).get(name):
        try:
            text = _read(row, value)
        except TypeError as error:
            chart.problem(path, str(error), f"see the chart's values for {name}")
            return
        if text is not None:
            chart.put(path, row.flag, text)
        return
    if name in _COMPUTED or path in _WHOLE or path in _ARGUMENTS or value in (None, "", {}, []):
        return
    mixed = path[0] in flags.branches()
    if mixed and len(path) == 1:
        chart.problem(path, "a mapping is wanted", f"write the values below {name}:")
    else:
        chart.not_agent.append(".".join(path[: 3 if path[0] == "ipam" else 2]) if mixed else path[0])


def _has(chart: _Chart, path: tuple[str, ...]) -> bool:
    """Does the chart have this value? What it has not, it ignores: that is said, with where it stands."""
    values = flags.chart_values()
    if past := next((end for end in range(1, len(path) + 1) if ".".join(path[:end]) in flags.old_values()), 0):
        old = flags.old_values()[".".join(path[:past])]
        now = f"write {old.now}" if old.now else "leave it out"
        chart.ignored(path[:past], f"charts {old.charts} had this value, {chart.others} it", now)
        return False
    for depth in range(1, len(path) + 1):
        name, above = ".".join(path[:depth]), ".".join(path[: depth - 1])
        minors = values.get(name) or values.get(f"{name}.")
        if name == "global":
            return False  # Helm's own, for charts that depend on each other
        if f"{above}.*" in values:
            return True  # labels, resources and the like
        if minors is None or "." in path[depth - 1]:
            _unknown(chart, path, depth)
            return False
        if chart.minor not in minors:
            chart.ignored(path[:depth], f"charts {flags.versions(minors)} have this value, {chart.others} it", "")
            return not chart.version
        if name in values:
            return True
    return True


def _unknown(chart: _Chart, path: tuple[str, ...], depth: int) -> None:
    """Says that no chart has this value, and what may be meant."""
    chart.unknown += 1
    if chart.unknown > _MOST_UNKNOWN:
        why = f"it holds more than {_MOST_UNKNOWN} values that no chart has"
        chart.problem((), why, "give the chart's own values")
        chart.reading.problems.finish()
    where = path[:depth]
    if chart.strict:
        chart.problem(where, "no chart of Cilium has this value", _meant(where) or "leave it out")
    else:
        chart.ignored(where, "no chart of Cilium has this value, and charts ignore such", _meant(where))


def _meant(where: tuple[str, ...]) -> str:
    """What may be meant by a path whose last word no chart has."""
    *above, word = where
    if "." in word and word in flags.helm_values():
        return "write it as nested mappings"
    words = flags.chart_words(".".join(above))
    if not above and word in flags.agent_keys() and word not in words:
        row = flags.helm_value_of().get(word)
        return f"write {'.'.join(row.path)}" if row else "put it under extraConfig"
    folded = {sibling.lower(): sibling for sibling in words}
    near = folded.get(word.lower()) or closest(word, words, cutoff=0.75)
    return f"did you mean {'.'.join((*above, near))}?" if near else ""


def _computed(chart: _Chart, values: dict[str, Any]) -> None:
    """What the chart decides from several values (the head of cilium-configmap.yaml and its cloud branches)."""
    made, warn = chart.values, chart.reading.warn

    def get(*path: str) -> Any:
        here: Any = values
        for part in path:
            here = here.get(part) if isinstance(here, dict) else None
        return here

    def on(*path: str) -> bool:
        return flags.parse_bool(scalar(get(*path))) is True

    if (replacement := scalar(get("kubeProxyReplacement"))) not in ("", "probe"):
        chart.put(("kubeProxyReplacement",), "kube-proxy-replacement", replacement)
        if now := OLD_REPLACEMENTS.get(replacement):
            warn(f'kubeProxyReplacement: "{replacement}" is of chart 1.14 and before; later ones want {now}')
    cloud = next((kind for kind in _CLOUDS if on(kind, "enabled")), None)
    if cloud:
        made["enable-endpoint-routes"] = "true"
        made.setdefault("auto-create-cilium-node-resource", "true")
    if cloud in ("eni", "gke"):
        made.setdefault("routing-mode", "native")
    if cloud == "eni":
        made["ipam"] = "eni"
        # Up to 1.17, and where the chart is to be as such a one, it is true as elsewhere.
        if chart.minor >= 18 and flags.minor_of(scalar(get("upgradeCompatibility")) or "newest") >= 18:
            made.setdefault("enable-ipv4-masquerade", "false")
    if (tunnel := scalar(get("tunnel"))) and "routing-mode" not in made:
        if tunnel not in TUNNELS:
            why = f"{tunnel!r} is none of {', '.join(TUNNELS)}"
            chart.problem(("tunnel",), why, "write routingMode and tunnelProtocol")
        else:
            for key, value in TUNNELS[tunnel].items():
                made.setdefault(key, value)
            now = "routingMode: native" if tunnel == "disabled" else f"routingMode: tunnel and tunnelProtocol: {tunnel}"
            warn(f"tunnel is a value of chart 1.14 and before; write {now}")
    if on("encryption", "enabled"):
        kind = scalar(get("encryption", "type")) or "ipsec"
        if kind in _ENCRYPTIONS:
            made[f"enable-{kind}"] = "true"
        else:
            chart.problem(("encryption", "type"), f"{kind!r} is no encryption", "write ipsec or wireguard")
    _ip_masq_agent(chart, get(*_MASQUERADED), enabled=on("ipMasqAgent", "enabled"))
    if (chaining := made.get("cni-chaining-mode", "none")) != "none":
        made.setdefault("enable-host-legacy-routing", "true")
        if chaining != "portmap":
            made.setdefault("enable-local-node-route", "false")


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
        words = flags.unknown(str(key))
        if isinstance(value, (dict, list)):
            chart.problem(where, "a plain value is wanted", "write it as the ConfigMap has it")
        elif words is None:
            chart.put(where, str(key), scalar(value))
        elif words[1] == "leave it out":
            chart.not_agent.append(f"extraConfig.{key}")
        else:
            chart.problem(where, *words)


def _arguments(chart: _Chart, environment: Any, words: Any) -> None:
    """What the chart puts into the agent's environment and behind its own arguments: flags win over the environment,
    and both over the ConfigMap (viper's order)."""
    for index, variable in enumerate(environment if isinstance(environment, list) else []):
        name = scalar(variable.get("name")) if isinstance(variable, dict) else ""
        if name.startswith("CILIUM_") and "value" in variable:
            key, where = flags.spelled(name), ("extraEnv", index)
            if flags.unknown(key) is None:
                chart.put(where, key, scalar(variable["value"]))
    if words in (None, []):
        return
    if not isinstance(words, list) or any(isinstance(word, (dict, list)) for word in words):
        chart.problem(("extraArgs",), "a list of words is wanted", "write extraArgs: [--devices=eth1]")
        return
    try:
        written = list(flags.command_line([scalar(word) for word in words], chart.reading.name, 0))
    except InputError as error:
        chart.problem(("extraArgs",), error.problems[0].why, error.problems[0].fix)
        return
    for given in written:
        at = next(
            index for index, word in enumerate(words) if flags.spelled(scalar(word).partition("=")[0]) == given.key
        )
        if reason := flags.unknown(given.key):
            chart.problem(("extraArgs", at), *reason)
        else:
            chart.put(("extraArgs", at), given.key, given.value)


_STEP = re.compile(r"((?:\\.|[^.\[\]\\])+)((?:\[[0-9]{1,3}\])*)(?:\.|$)")


def parse_set(texts: Iterable[str], file: str, version: str) -> Settings:
    """What `helm --set` takes: `a.b=c`, `a={x,y}`, `a[0]=x`, several of them with commas; `\\,` is a comma."""
    pairs: dict[str, str] = {}
    for text in texts:
        for pair in _split(text):
            path, equals, value = pair.partition("=")
            if not equals:
                raise InputError(
                    [Problem(file, 0, "", f"{pair!r} is not PATH=VALUE", "write it as bpf.masquerade=true")]
                )
            pairs[path] = value
    reading = Reading(file, lambda *_: 0)
    given = parse_helm(tree_of(pairs, file, 0), reading, (0,), version=version, strict=True)
    return replace(given, base="lab", warnings=tuple(reading.warnings))


def tree_of(pairs: Mapping[str, str], file: str, line: int) -> dict[str, Any]:
    """Helm values from paths and the texts that `helm --set` takes for them."""
    tree: dict[str, Any] = {}
    for path, value in pairs.items():
        steps = [*_STEP.finditer(path)]
        if not path or "".join(step[0] for step in steps) != path or path.endswith("."):
            raise InputError([Problem(file, line, "", f"{path!r} is no path of a value", "write it as bpf.masquerade")])
        _put(tree, steps, _value(value))
    return tree


def _split(text: str) -> list[str]:
    """At commas that stand neither in braces nor behind a backslash."""
    return re.findall(r"(?:\\.|\{[^}]*\}|[^,\\]|\\$)+", text)


def _value(text: str) -> Any:
    if text == "null":
        return None
    if text.startswith("{") and text.endswith("}"):
        return [re.sub(r"\\(.)", r"\1", part).strip() for part in re.findall(r"(?:\\.|[^,\\])+", text[1:-1])]
    return re.sub(r"\\(.)", r"\1", text)


def _put(tree: dict[str, Any], steps: list[re.Match[str]], value: Any) -> None:
    here: Any = tree
    keys: list[str | int] = []
    for step in steps:
        keys += [re.sub(r"\\(.)", r"\1", step[1]), *map(int, re.findall(r"[0-9]+", step[2]))]
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        if isinstance(key, int):
            here.extend([None] * (key + 1 - len(here)))
        if following is None:
            here[key] = value
            return
        kind = list if isinstance(following, int) else dict
        below = here[key] if isinstance(key, int) else here.get(key)
        if not isinstance(below, kind):
            below = here[key] = kind()
        here = below


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
