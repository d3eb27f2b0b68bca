"""Settings in the formats people have: read from any file, whose content decides which format it is, and written."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter

from niclab.errors import InputError, Problem, Problems, closest
from niclab.settings import HOSTNAME_LABEL, OPERATORS, Expression, NodeSettings, Selector, Settings, flags, wrapped
from niclab.settings.flags import Assignment, Values
from niclab.settings.helm import HEADINGS, OLD_REPLACEMENTS, TUNNELS, parse_helm, parse_set, to_helm_values
from niclab.topology.yamlfile import Field, Reading, load_with_lines, read_text, refuse_long, scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CONFIG_MAP = "cilium-config"
KINDS = ("ConfigMap", "CiliumNodeConfig", "CiliumConfig", "List")

OVERRIDE_PREFIX = "zzz-node-"
"""The name a single node's override gets as a CiliumNodeConfig: it sorts behind the others, so that it wins."""


def load(path: Path | str, *, version: str = "") -> Settings:
    """Settings from a file of any format `loads` knows."""
    path = Path(path)
    return loads(read_text(path), name=str(path), version=version)


def loads(text: str, *, name: str, version: str = "") -> Settings:
    """Settings from a text; `name` is the file's name in errors and warnings.

    It may be the `cilium-config` ConfigMap, CiliumNodeConfig objects, a List or several documents of these, Helm values
    (also as `helm get values` prints them, or inside what installs the chart: see `niclab.settings.wrapped`), a flags
    file, a mapping of flags, `cilium config view`, the head of an agent's log, or the CiliumConfig sketch of articles;
    YAML or JSON. `version` is the chart's; without one it is the newest. `Settings.base` says what the text leaves
    open: see `niclab.settings.effective`.
    """
    refuse_long(len(text), name)
    if pairs := wrapped.logged(text) or wrapped.viewed(text):
        return _reported(pairs, name)
    if _looks_like_flags(text):
        return _parse_flags(text, name)
    documents, line_of = load_with_lines(text, name)
    reading = Reading(name, line_of)
    objects = [item for number, data in enumerate(documents) for item in _objects(data, (number,), reading)]
    reading.problems.finish()
    if not objects:
        why = "the file is empty"
        raise InputError([Problem(name, 1, "", why, "write settings, for example devices=eth0,eth1")])
    chosen = _chosen(objects, reading)
    # Documents of Helm values are files behind one another: `helm -f one -f other`.
    plain = [item for item in chosen if _is_helm(item[0])]
    rest = [item for item in chosen if not _is_helm(item[0])]
    parts = [_helm([wrapped.Layer(*item) for item in plain], version)] if plain else []
    beside = any(wrapped.holds_values(data) for data, *_ in rest)
    rest.sort(key=lambda item: not wrapped.holds_values(item[0]))  # what installs the chart wins
    parts += [_object(*item, version, beside=beside) for item in rest]
    for each in {id(item[2]): item[2] for item in objects}.values():
        each.problems.finish()
    result = Settings()
    for part in parts:
        result = result.merged(part)
    # The objects that were passed over.
    several = sum(_is_config(data) for data, *_ in objects) > 1
    passed = [
        f"{data.get('kind')} {_name(data)}".strip()
        for data, *_ in objects
        if isinstance(data, dict) and (not _is_config(data) or (several and _is_other_config_map(data)))
    ]
    ignored = [f"{name}: passed over, no settings of Cilium: {', '.join(passed)}"] if passed else []
    return replace(result, warnings=(*reading.warnings, *ignored))


def _reported(pairs: Mapping[str, str], name: str) -> Settings:
    """All that an agent has, as it or a tool printed it: what is not known here is of a version that is not."""
    known = {key: value for key, value in pairs.items() if (flag := flags.table().get(key)) and flag.of_agents}
    problems = Problems()
    for key, value in known.items():
        if words := flags.complaint(key, value):
            problems.append(Problem(name, 0, key, *words))
    problems.finish()
    others = sorted(pairs.keys() - known.keys())
    warnings = [f"{name}: read by no agent, left out: {', '.join(others)}"] if others else []
    return Settings(Values(known), base="cluster", warnings=tuple(warnings))


def parse_assignments(assignments: Sequence[str], *, file: str = "--set", version: str = "") -> Settings:
    """Settings from `KEY=VALUE` words; a key may be spelled `--enable-ipv6`, `enable_ipv6` or `enableIPv6`.

    A path of the Helm chart (`bpf.masquerade=true`, `devices={eth0,eth1}`) is read as `helm --set` reads it.
    """
    paths = [text for text in assignments if _is_chart_path(text)]
    others = (text for text in assignments if text not in paths)
    given = _settings([flags.assignment(text, file, 0, with_node=False) for text in others], file)
    return parse_set(paths, file, version).merged(given) if paths else given


def _is_chart_path(text: str) -> bool:
    key, equals, value = text.partition("=")
    if not equals or key.strip() != key or re.search(r"[^\w.\[\]/\\-]", key):
        return False
    first = re.split(r"[.\[]", key)[0]
    if flags.spelled(key) in flags.agent_keys() and key != "tunnel":  # whose flag no known agent has
        return first in flags.chart_words("") and value.startswith("{") and value.endswith("}")
    return first != key or first in flags.chart_words("") or first in flags.old_values()


def parse_node_assignments(assignments: Sequence[str], *, file: str = "--node-set") -> Settings:
    """Overrides of single nodes from `NODE:KEY=VALUE` words."""
    return _settings([flags.assignment(text, file, 0, with_node=True) for text in assignments], file)


def _looks_like_flags(text: str) -> bool:
    """Whether a text is a flags file: the first line that is no comment is `KEY=VALUE` or begins with `--flag`."""
    for line in text.splitlines():
        word = line.strip()
        if word and not word.startswith("#"):
            return bool(re.match(r"--[A-Za-z]|cilium-agent(\s|$)|[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?\s*=", word))
    return False


def _parse_flags(text: str, name: str) -> Settings:
    """A flags file: `KEY=VALUE`, `NODE:KEY=VALUE` and `--flag=value` lines (also `--flag value`, a bare `--flag`)."""
    assignments: list[Assignment] = []
    problems = Problems()
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            assignments.extend(_line(line, name, number))
        except InputError as error:
            problems.extend(error.problems)
    problems.finish()
    return _settings(assignments, name)


def _line(line: str, name: str, number: int) -> Iterator[Assignment]:
    word = line.strip().removesuffix("\\").strip()
    word = re.sub(r"^cilium-agent(\s+|$)", "", word)
    if not word or word.startswith("#"):
        return
    if word.startswith("--"):
        try:
            tokens = shlex.split(word, comments=True)
        except ValueError as error:
            raise InputError([Problem(name, number, "", str(error).lower(), "close the quotes")]) from None
        yield from flags.command_line(tokens, name, number)
        return
    given = flags.assignment(word, name, number, with_node=None)
    yield given._replace(value=_unquoted(given.value))


def _unquoted(value: str) -> str:
    value = value.strip()
    if value[:1] == '"':
        try:
            text, end = json.JSONDecoder(strict=False).raw_decode(value)
        except ValueError:
            return value
        rest = value[end:].strip()
        return str(text) if not rest or rest.startswith("#") else value
    if match := re.fullmatch(r"'([^']*)'(\s+#.*)?", value):
        return match[1]
    return re.sub(r"(^|\s+)#.*$", "", value)


def _settings(assignments: Iterable[Assignment], file: str) -> Settings:
    problems = Problems()
    values: dict[str, str] = {}
    nodes: dict[str, dict[str, str]] = {}
    for line, node, key, value in assignments:
        if words := flags.unknown(key):
            problems.append(Problem(file, line, key, *words))
        elif words := flags.complaint(key, value):
            problems.append(Problem(file, line, f"{node}:{key}" if node else key, *words))
        (values if node is None else nodes.setdefault(node, {}))[key] = value
    problems.finish()
    per_node = tuple(NodeSettings(node, None, Values(values)) for node, values in nodes.items())
    return Settings(Values(values), per_node)


_Item = tuple[Any, Field, Reading]


def _objects(data: Any, at: Field, reading: Reading) -> Iterator[_Item]:
    """The objects of a document, a List's items and a Talos machine's manifests one by one."""
    if data is None:
        return
    if isinstance(data, dict) and isinstance(data.get("items"), list) and str(data.get("kind", "")).endswith("List"):
        for index, item in enumerate(data["items"]):
            yield from _objects(item, (*at, "items", index), reading)
    elif isinstance(data, list) and data and all(isinstance(item, dict) and "kind" in item for item in data):
        for index, item in enumerate(data):
            yield from _objects(item, (*at, index), reading)
    elif isinstance(data, dict) and "machine" in data and "kind" not in data:
        manifests = wrapped.inline_manifests(data, at, reading)
        if not manifests:
            why = "a Talos machine configuration without cluster.inlineManifests has no settings of Cilium"
            reading.problem(at, why, "give the values that Cilium is installed with")
        for manifest, place, inner in manifests:
            yield from _objects(manifest, place, inner)
    else:
        yield data, at, reading


def _is_config(data: Any) -> bool:
    """Whether an object holds settings at all."""
    return not isinstance(data, dict) or "kind" not in data or data["kind"] in KINDS or wrapped.is_wrapper(data)


def _is_helm(data: Any) -> bool:
    """A mapping of Helm values: no value of a chart's first level has a dash, as most flags have."""
    return (
        isinstance(data, dict)
        and "kind" not in data
        and not any("-" in str(key) for key in data if key not in HEADINGS)
    )


def _helm(layers: list[wrapped.Layer], version: str) -> Settings:
    """Helm values that lie on top of each other."""
    values, reading = wrapped.merged(layers)
    return parse_helm(values, reading, (0,), version=version)


def _is_other_config_map(data: Any) -> bool:
    if not isinstance(data, dict) or data.get("kind") != "ConfigMap":
        return False
    return _name(data) != CONFIG_MAP and not wrapped.holds_values(data)


def _name(data: dict[Any, Any]) -> str:
    """An object's name, "" where it has none."""
    metadata = data.get("metadata")
    return scalar(metadata.get("name")) if isinstance(metadata, dict) else ""


def _chosen(objects: list[_Item], reading: Reading) -> list[_Item]:
    chosen = [item for item in objects if _is_config(item[0])]
    if len(chosen) > 1:
        # A namespace's dump holds other ConfigMaps too; a single one is meant, whatever its name.
        chosen = [item for item in chosen if not _is_other_config_map(item[0])]
    if not chosen:
        data, at, _ = objects[0]
        kind = str(data.get("kind"))
        near = closest(kind, KINDS) if len(objects) == 1 else None
        fix = f"did you mean kind {near}?" if near else f"give a file with the ConfigMap {CONFIG_MAP} or Helm values"
        reading.problem((*at, "kind"), f"a {kind} holds no settings of Cilium", fix)
    named = (data for data, *_ in chosen if isinstance(data, dict) and "kind" in data)
    names = [(data["kind"], _name(data)) for data in named if isinstance(data.get("metadata"), dict)]
    for kind, object_name in sorted({pair for pair in names if names.count(pair) > 1}):
        reading.problem((0, "metadata", "name"), f"{kind} {object_name} is there twice", "keep one of them", line=0)
    return chosen


def _object(data: Any, at: Field, reading: Reading, version: str, *, beside: bool) -> Settings:
    if not isinstance(data, dict):
        alone = reading.again()
        alone.problem(at, "neither a mapping nor KEY=VALUE lines", "write for example devices=eth0,eth1")
        alone.problems.finish()
    kind = data.get("kind")
    if wrapped.is_wrapper(data) or wrapped.holds_values(data):
        return _helm(wrapped.layers(data, at, reading, beside=beside), version)
    if kind == "ConfigMap":
        return _config_map(data, at, reading)
    if kind == "CiliumNodeConfig":
        return _node_config(data, at, reading)
    if kind == "CiliumConfig":
        spec = data.get("spec")
        if data.get("apiVersion") == "cilium.io/v1alpha1" and isinstance(spec, dict):
            return parse_helm(spec, reading.again(), (*at, "spec"), version=version)
        return _article(data, at, reading)
    return _flags(data, at, reading.again())


def _flags(data: dict[Any, Any], at: Field, reading: Reading) -> Settings:
    values: dict[str, str] = {}
    for word, value in data.items():
        key, field = flags.spelled(str(word)), (*at, str(word))
        text = ",".join(scalar(part) for part in value) if isinstance(value, list) else scalar(value)
        if isinstance(value, dict):
            reading.problem(field, "a plain value or a list is wanted", "write text")
        elif words := flags.wrong(key, text):
            reading.problem(field, *words)
        values[key] = text
    reading.problems.finish()
    return Settings(Values(values))


def _config_map(data: dict[str, Any], at: Field, reading: Reading) -> Settings:
    """A whole configuration: what the agent does not read is left out, with a warning."""
    at = (*at, "data")
    pairs: dict[Any, Any] = {}
    if data.get("data") is not None:
        pairs = reading.mapping(data["data"], at, "write key: value lines", "a mapping of keys to text is wanted")
    unread = {key for key in map(str, pairs) if (flag := flags.table().get(key)) and not flag.of_agents}
    unquoted = sorted(str(key) for key, value in pairs.items() if not isinstance(value, str))
    values = _values({key: value for key, value in pairs.items() if str(key) not in unread}, at, reading)
    if unread:
        names = ", ".join(sorted(unread))
        reading.warn(f"read by the operator or another component, not by the agent: {names}")
    if unquoted:
        names = ", ".join(unquoted)
        reading.warn(f"a ConfigMap holds only text, Kubernetes refuses these unquoted: {names}")
    if now := OLD_REPLACEMENTS.get(word := values.get("kube-proxy-replacement", "")):
        reading.warn(f"kube-proxy-replacement={word} is of Cilium 1.14 and before, read as {now}")
    return Settings(Values(values), base="cluster")


def _node_config(data: dict[str, Any], at: Field, reading: Reading) -> Settings:
    """A CiliumNodeConfig (pkg/k8s/apis/cilium.io/v2/cnc_types.go:17-44)."""
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        reading.problem((*at, "metadata"), "the object has no name", "write metadata.name")
        name = "unnamed"
    if data.get("apiVersion") == "cilium.io/v2alpha1":
        reading.warn(f"{name}: cilium.io/v2alpha1 is the old version, write cilium.io/v2")
    at = (*at, "spec")
    spec = reading.mapping(data.get("spec"), at, "write spec.nodeSelector and spec.defaults")
    for key in spec.keys() - {"nodeSelector", "defaults"}:
        why = "a CiliumNodeConfig's spec has nodeSelector and defaults only"
        reading.problem((*at, str(key)), why, "put agent flags under spec.defaults")
    defaults = {} if spec.get("defaults") is None else spec["defaults"]
    defaults = reading.mapping(defaults, (*at, "defaults"), "write key: value lines")
    values = Values(_values(defaults, (*at, "defaults"), reading))
    if (labels := spec.get("nodeSelector")) is None:
        reading.warn(f"{name} has no nodeSelector, so it applies to no node")
        return Settings()
    selector: Selector | None = _selector(labels, (*at, "nodeSelector"), reading)
    node = name.removeprefix(OVERRIDE_PREFIX)
    if node != name and selector == Selector(Values({HOSTNAME_LABEL: node})):
        name, selector = node, None
    return Settings(per_node=(NodeSettings(name, selector, values),))


_NO_SUCH_KIND = (
    f"no Cilium has a kind CiliumConfig that an agent reads; there are the ConfigMap {CONFIG_MAP} and CiliumNodeConfig "
    "(cilium.io/v2); the CiliumConfig of cilium.io/v1alpha1 holds Helm values for OpenShift's OLM operator"
)


def _article(data: dict[str, Any], at: Field, reading: Reading) -> Settings:
    """The `kind: CiliumConfig` sketch that goes round in articles: no Cilium reads it, its intent is clear."""
    at, spec = (*at, "spec"), data.get("spec")
    if not isinstance(spec, dict):
        reading.problem(at, "a mapping is wanted", "write spec.devices")
        return Settings()
    reading.warn(_NO_SUCH_KIND)
    values: dict[str, str] = {}
    for key, value in spec.items():
        meant: Mapping[str, str]
        mode = value.get("mode") if isinstance(value, dict) and set(value) == {"mode"} else None
        if key == "ipam" and isinstance(mode, str):
            meant, where = {"ipam": mode}, "ipam.mode"
            meaning = "it says nothing about NICs"
        elif key == "tunnel" and isinstance(mode, str) and mode in TUNNELS:
            meant, where = TUNNELS[mode], "tunnel.mode"
            meaning = "the kernel's route to the peer's node IP chooses the NIC"
        elif key == "devices" and isinstance(value, (str, list)):
            devices = value if isinstance(value, str) else ",".join(scalar(part) for part in value)
            meant, where = {"devices": devices}, "devices"
            meaning = (
                "it chooses where eBPF programs attach and masquerade; it neither allocates pod addresses "
                "from these NICs nor makes routes over them"
            )
        else:
            fix = "write ipam.mode, tunnel.mode (vxlan, geneve or disabled) or devices, or use a ConfigMap"
            reading.problem((*at, str(key)), "this has no meaning in any Cilium", fix)
            continue
        words = " and ".join(f"{flag}={text}" for flag, text in meant.items())
        reading.warn(f"spec.{where} is {'' if key == 'tunnel' else 'the flag '}{words}; {meaning}")
        values |= meant
    for flag, text in values.items():
        if wrong := flags.wrong(flag, text):
            reading.problem((*at, flag), *wrong)
    return Settings(Values({} if reading.problems else values))


def _values(pairs: dict[Any, Any], at: Field, reading: Reading) -> dict[str, str]:
    values: dict[str, str] = {}
    for key_, value in pairs.items():
        key, field = str(key_), (*at, str(key_))
        if isinstance(value, (dict, list)):
            reading.problem(field, "text is wanted", "write lists with commas, nested text with |-")
        elif key == "tunnel" and (text := scalar(value)) in TUNNELS:
            values |= TUNNELS[text]  # the agent of 1.14 and before had one key for both
        elif words := flags.wrong(key, text := scalar(value)):
            reading.problem(field, *words)
        else:
            values[key] = text
    return values


def _selector(data: Any, at: Field, reading: Reading) -> Selector:
    """A label selector, as metav1.LabelSelectorAsSelector reads it."""
    if not isinstance(data, dict) or data.keys() - {"matchLabels", "matchExpressions"}:
        reading.problem(at, "a label selector is wanted", "write matchLabels or matchExpressions below it")
        return Selector()
    labels = data.get("matchLabels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        reading.problem((*at, "matchLabels"), "labels are text", "quote their values")
        labels = {}
    expressions: list[Expression] = []
    listed = data.get("matchExpressions") or []
    for index, item in enumerate(listed if isinstance(listed, list) else [None]):
        expression = _expression(item)
        if expression is None:
            fix = "write key, operator (In, NotIn, Exists, DoesNotExist) and, for the first two, values"
            reading.problem((*at, "matchExpressions", index), "no expression of a label selector", fix)
        else:
            expressions.append(expression)
    return Selector(Values(labels), tuple(expressions))


def _expression(data: Any) -> Expression | None:
    if not isinstance(data, dict) or not isinstance(data.get("key"), str):
        return None
    values = data.get("values") or []
    operator = next((known for known in OPERATORS if known == data.get("operator")), None)
    if operator is None or not isinstance(values, list) or (operator in ("In", "NotIn")) != bool(values):
        return None
    return Expression(data["key"], operator, tuple(scalar(value) for value in values))


NAMESPACE = "kube-system"


def to_configmap(settings: Settings, *, namespace: str = NAMESPACE) -> str:
    """The ConfigMap, followed by a CiliumNodeConfig for each of `per_node`."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace},
        "data": dict(settings.values),
    }
    return _yaml(config_map, *(_written(node, namespace) for node in settings.per_node))


def to_helm(settings: Settings) -> str:
    """Helm values, and behind them as documents of their own the CiliumNodeConfigs, which the chart cannot make."""
    values = to_helm_values(settings.values)
    return _yaml(values, *(_written(node, NAMESPACE) for node in settings.per_node))


def _written(node: NodeSettings, namespace: str) -> dict[str, Any]:
    """One CiliumNodeConfig; a node's own override selects it by its hostname label."""
    if node.selector is None:
        name, selector = f"{OVERRIDE_PREFIX}{node.name}", Selector(Values({HOSTNAME_LABEL: node.name}))
    else:
        name, selector = node.name, node.selector
    expressions = [
        {"key": expression.key, "operator": expression.operator}
        | ({"values": list(expression.values)} if expression.values else {})
        for expression in selector.expressions
    ]
    chooser = {"matchLabels": dict(selector.labels)} if selector.labels or not expressions else {}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNodeConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeSelector": chooser | ({"matchExpressions": expressions} if expressions else {}),
            "defaults": dict(node.values),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as something else, as SafeDumper does, and indents lists below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=4096,
        explicit_start=len(documents) > 1,
    )


def to_flags(settings: Settings) -> str:
    """`KEY=VALUE` lines, and `NODE:KEY=VALUE` for single nodes; a CiliumNodeConfig's selector has no such form."""
    chosen = [node.name for node in settings.per_node if node.selector is not None]
    if chosen:
        why = f"flags cannot say which nodes {', '.join(chosen)} selects"
        raise InputError([Problem("flags", 0, "per_node", why, "write a ConfigMap with CiliumNodeConfigs instead")])
    lines = [f"{key}={_quoted(value)}" for key, value in settings.values.items()]
    for node in settings.per_node:
        lines += [f"{node.name}:{key}={_quoted(value)}" for key, value in node.values.items()]
    return "".join(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    plain = re.fullmatch(r"[^\s\"'#\\\x00-\x1f\x7f-\xa0\u2028\u2029]([^\x00-\x1f\x7f-\xa0\u2028\u2029\\]*\S)?", value)
    # A backslash at a line's end is a shell's: reading takes it for a continuation.
    if value == "" or (plain and " #" not in value and not value.endswith("\\")):
        return value
    return json.dumps(value)


def to_json(settings: Settings) -> dict[str, Any]:
    """Settings as a kept lab stores them; what they were read from is left out, as in comparisons."""
    stored: dict[str, Any] = _adapter().dump_python(settings, mode="json", exclude={"warnings", "base"})
    return stored


def from_json(stored: Mapping[str, Any]) -> Settings:
    return _adapter().validate_python(stored)


@cache
def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def lines(settings: Settings) -> Sequence[str]:
    """For people: `KEY=VALUE`, `NODE:KEY=VALUE`, and behind its name what a CiliumNodeConfig says."""
    shown = [f"{key}={value}" for key, value in settings.values.items()]
    for node in settings.per_node:
        who = node.name if node.selector is None else f"CiliumNodeConfig {node.name}"
        shown += [f"{who}:{key}={value}" for key, value in node.values.items()]
    return shown
