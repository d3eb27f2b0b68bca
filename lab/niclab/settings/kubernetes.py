"""The Kubernetes objects that carry settings: the cilium-config ConfigMap, CiliumNodeConfig, and lists of them."""

from __future__ import annotations

from typing import Any

from niclab.errors import Problem, Problems
from niclab.settings.flags import table
from niclab.settings.helm_table import scalar
from niclab.settings.keys import key_problem
from niclab.settings.model import HOSTNAME_LABEL, OPERATORS, Expression, NodeSettings, Selector, Settings
from niclab.settings.values import Values, complaint
from niclab.topology.yamlfile import Field, LineOf, dotted

CONFIG_MAP = "cilium-config"

OVERRIDE_PREFIX = "zzz-node-"
"""The name a single node's override gets as a CiliumNodeConfig: it sorts behind the others, so that it wins."""


class ObjectReader:
    """Reads the objects of one file, collecting what is wrong with them."""

    def __init__(self, name: str, line_of: LineOf) -> None:
        self.name = name
        self.line_of = line_of
        self.problems = Problems()

    def config_map(self, data: dict[str, Any], document: int, at: Field) -> Settings:
        """A whole configuration: what the agent does not read is left out, with a warning."""
        pairs = data.get("data")
        warnings: list[str] = []
        if pairs is not None and not isinstance(pairs, dict):
            self._problem(document, (*at, "data"), "a mapping of keys to text is wanted", "write key: value lines")
        pairs = pairs if isinstance(pairs, dict) else {}
        unread = {key for key in map(str, pairs) if _is_for_others(key)}
        unquoted = sorted(str(key) for key, value in pairs.items() if not isinstance(value, str))
        kept = {key: value for key, value in pairs.items() if str(key) not in unread}
        values = self._values(kept, document, (*at, "data"))
        if unread:
            names = ", ".join(sorted(unread))
            warnings.append(f"{self.name}: read by the operator or another component, not by the agent: {names}")
        if unquoted:
            names = ", ".join(unquoted)
            warnings.append(f"{self.name}: a ConfigMap holds only text, Kubernetes refuses these unquoted: {names}")
        warnings += self._old_words(values)
        return Settings(Values(values), warnings=tuple(warnings), base="cluster")

    def node_config(self, data: dict[str, Any], document: int, at: Field) -> Settings:
        """A CiliumNodeConfig (pkg/k8s/apis/cilium.io/v2/cnc_types.go:17-44)."""
        warnings: list[str] = []
        metadata = data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not name:
            self._problem(document, (*at, "metadata"), "the object has no name", "write metadata.name")
            name = "unnamed"
        if data.get("apiVersion") == "cilium.io/v2alpha1":
            warnings.append(f"{self.name}: {name}: cilium.io/v2alpha1 is the old version, write cilium.io/v2")
        spec = data.get("spec")
        if not isinstance(spec, dict):
            self._problem(document, (*at, "spec"), "a mapping is wanted", "write spec.nodeSelector and spec.defaults")
            spec = {}
        for key in spec.keys() - {"nodeSelector", "defaults"}:
            why = "a CiliumNodeConfig's spec has nodeSelector and defaults only"
            self._problem(document, (*at, "spec", str(key)), why, "put agent flags under spec.defaults")
        defaults = spec.get("defaults")
        if defaults is not None and not isinstance(defaults, dict):
            self._problem(document, (*at, "spec", "defaults"), "a mapping is wanted", "write key: value lines")
            defaults = None
        values = Values(self._values(defaults or {}, document, (*at, "spec", "defaults")))
        if (labels := spec.get("nodeSelector")) is None:
            warnings.append(f"{self.name}: {name} has no nodeSelector, so it applies to no node")
            return Settings(warnings=tuple(warnings))
        selector = self._selector(labels, document, (*at, "spec", "nodeSelector"))
        node = name.removeprefix(OVERRIDE_PREFIX)
        if node != name and selector == Selector(Values({HOSTNAME_LABEL: node})):
            return Settings(per_node=(NodeSettings(node, None, values),), warnings=tuple(warnings))
        return Settings(per_node=(NodeSettings(name, selector, values),), warnings=tuple(warnings))

    def article(self, data: dict[str, Any], document: int, at: Field) -> Settings:
        """The `kind: CiliumConfig` sketch that goes round in articles: no Cilium reads it, its intent is clear."""
        spec = data.get("spec")
        if not isinstance(spec, dict):
            self._problem(document, (*at, "spec"), "a mapping is wanted", "write spec.devices")
            return Settings()
        no_such_kind = (
            f"{self.name}: no Cilium has a kind CiliumConfig that an agent reads; there are the ConfigMap {CONFIG_MAP} "
            "and CiliumNodeConfig (cilium.io/v2); the CiliumConfig of cilium.io/v1alpha1 holds Helm values for "
            "OpenShift's OLM operator"
        )
        warnings = [no_such_kind]
        values: dict[str, str] = {}
        for key, value in spec.items():
            field = (*at, "spec", str(key))
            mode = value.get("mode") if isinstance(value, dict) and set(value) == {"mode"} else None
            if key == "ipam" and isinstance(mode, str):
                values["ipam"] = mode
                warnings.append(f"{self.name}: spec.ipam.mode is the flag ipam={mode}; it says nothing about NICs")
            elif key == "tunnel" and mode in ("vxlan", "geneve", "disabled"):
                flags = {"routing-mode": "native"} if mode == "disabled" else _tunnel(mode)
                values |= flags
                words = " and ".join(f"{flag}={text}" for flag, text in flags.items())
                route = "the kernel's route to the peer's node IP chooses the NIC"
                warnings.append(f"{self.name}: spec.tunnel.mode is {words}; {route}")
            elif key == "devices" and isinstance(value, (str, list)):
                values["devices"] = value if isinstance(value, str) else ",".join(scalar(part) for part in value)
                meaning = (
                    "it chooses where eBPF programs attach and masquerade; it neither allocates pod addresses "
                    "from these NICs nor makes routes over them"
                )
                warnings.append(f"{self.name}: spec.devices is the flag devices={values['devices']}; {meaning}")
            else:
                fix = "write ipam.mode, tunnel.mode (vxlan, geneve or disabled) or devices, or use a ConfigMap"
                self._problem(document, field, "this has no meaning in any Cilium", fix)
        for key, value in values.items():
            if words_ := complaint(key, value):
                self._problem(document, (*at, "spec", "tunnel" if key in _tunnel("") else key), *words_)
        return Settings(Values({} if self.problems else values), warnings=tuple(warnings))

    def _values(self, pairs: dict[Any, Any], document: int, at: Field) -> dict[str, str]:
        values: dict[str, str] = {}
        for key_, value in pairs.items():
            key, field = str(key_), (*at, str(key_))
            if isinstance(value, (dict, list)):
                self._problem(document, field, "text is wanted", "write lists with commas, nested text with |-")
                continue
            text = scalar(value)
            # The agent of 1.14 and before had one key for both.
            if key == "tunnel" and text in ("vxlan", "geneve", "disabled"):
                values |= {"routing-mode": "native"} if text == "disabled" else _tunnel(text)
                continue
            if problem := key_problem(key, self.name, self.line_of(document, field)):
                self._problem(document, field, problem.why, problem.fix)
            elif words := complaint(key, text):
                self._problem(document, field, *words)
            else:
                values[key] = text
        return values

    def _old_words(self, values: dict[str, str]) -> list[str]:
        word = values.get("kube-proxy-replacement")
        if word not in ("strict", "partial", "disabled"):
            return []
        now = "true" if word == "strict" else "false"
        return [f"{self.name}: kube-proxy-replacement={word} is of Cilium 1.14 and before, read as {now}"]

    def _selector(self, data: Any, document: int, at: Field) -> Selector:
        """A label selector, as metav1.LabelSelectorAsSelector reads it."""
        if not isinstance(data, dict) or data.keys() - {"matchLabels", "matchExpressions"}:
            self._problem(document, at, "a label selector is wanted", "write matchLabels or matchExpressions below it")
            return Selector()
        labels = data.get("matchLabels") or {}
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            self._problem(document, (*at, "matchLabels"), "labels are text", "quote their values")
            labels = {}
        expressions: list[Expression] = []
        listed = data.get("matchExpressions") or []
        for index, item in enumerate(listed if isinstance(listed, list) else [None]):
            expression = _expression(item)
            if expression is None:
                fix = "write key, operator (In, NotIn, Exists, DoesNotExist) and, for the first two, values"
                self._problem(document, (*at, "matchExpressions", index), "no expression of a label selector", fix)
            else:
                expressions.append(expression)
        return Selector(Values(labels), tuple(expressions))

    def _problem(self, document: int, field: Field, why: str, fix: str) -> None:
        self.problems.append(Problem(self.name, self.line_of(document, field), dotted(field), why, fix))

    def finish(self) -> None:
        """Raises InputError with what is wrong, if anything is."""
        self.problems.finish()


def _expression(data: Any) -> Expression | None:
    if not isinstance(data, dict) or not isinstance(data.get("key"), str):
        return None
    values = data.get("values") or []
    operator = next((known for known in OPERATORS if known == data.get("operator")), None)
    if operator is None or not isinstance(values, list) or (operator in ("In", "NotIn")) != bool(values):
        return None
    return Expression(data["key"], operator, tuple(scalar(value) for value in values))


def _is_for_others(key: str) -> bool:
    flag = table().get(key)
    return flag is not None and not flag.of_agents


def _tunnel(protocol: str) -> dict[str, str]:
    return {"routing-mode": "tunnel", "tunnel-protocol": protocol}
