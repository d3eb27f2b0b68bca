"""Flags as people type them: `KEY=VALUE`, `node1:KEY=VALUE`, and files with one a line; read and written."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from niclab.errors import InputError, Problem, Problems
from niclab.settings.flags import Values, complaint, spelled, table, unknown
from niclab.settings.model import NodeSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_NODE_KEY = re.compile(r"(?:(?P<node>[a-z0-9][a-z0-9.-]*):)?(?P<key>[^:=\s]+)=(?P<value>.*)", re.DOTALL)


class _Assignment(NamedTuple):
    line: int
    node: str | None
    key: str
    value: str


def parse_assignments(assignments: Sequence[str], *, file: str = "--set") -> Settings:
    """Settings from `KEY=VALUE` words; a key may be spelled `--enable-ipv6`, `enable_ipv6` or `enableIPv6`."""
    return _settings([_assignment(text, file, 0, with_node=False) for text in assignments], file)


def parse_node_assignments(assignments: Sequence[str], *, file: str = "--node-set") -> Settings:
    """Overrides of single nodes from `NODE:KEY=VALUE` words."""
    return _settings([_assignment(text, file, 0, with_node=True) for text in assignments], file)


def looks_like_flags(text: str) -> bool:
    """Whether a text is a flags file: the first line that is no comment is `KEY=VALUE` or begins with `--flag`."""
    for line in text.splitlines():
        word = line.strip()
        if word and not word.startswith("#"):
            return bool(re.match(r"--[A-Za-z]|cilium-agent(\s|$)|[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?\s*=", word))
    return False


def parse_flags(text: str, name: str) -> Settings:
    """A flags file: `KEY=VALUE`, `NODE:KEY=VALUE` and `--flag=value` lines (also `--flag value`, a bare `--flag`)."""
    assignments: list[_Assignment] = []
    problems = Problems()
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            assignments.extend(_line(line, name, number))
        except InputError as error:
            problems.extend(error.problems)
    problems.finish()
    return _settings(assignments, name)


def _line(line: str, name: str, number: int) -> Iterator[_Assignment]:
    word = line.strip().removesuffix("\\").strip()
    word = re.sub(r"^cilium-agent(\s+|$)", "", word)
    if not word or word.startswith("#"):
        return
    if word.startswith("--"):
        try:
            tokens = shlex.split(word, comments=True)
        except ValueError as error:
            raise InputError([Problem(name, number, "", str(error).lower(), "close the quotes")]) from None
        yield from _command_line(tokens, name, number)
        return
    assignment = _assignment(word, name, number, with_node=None)
    yield assignment._replace(value=_unquoted(assignment.value))


def _command_line(tokens: list[str], name: str, number: int) -> Iterator[_Assignment]:
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            raise InputError([Problem(name, number, "", f"{token!r} belongs to no flag", "write --flag=value")])
        if "=" in token:
            yield _assignment(token, name, number, with_node=False)
        elif _is_switch(key := spelled(token)):
            yield _Assignment(number, None, key, "true")
        elif tokens and not tokens[0].startswith("--"):
            yield _Assignment(number, None, key, tokens.pop(0))
        else:
            raise InputError([Problem(name, number, key, "the flag has no value", f"write --{key}=value")])


def _is_switch(key: str) -> bool:
    flag = table().get(key)
    return (flag is not None and flag.type == "bool") or key.startswith(("enable-", "disable-"))


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


def _assignment(text: str, file: str, line: int, *, with_node: bool | None) -> _Assignment:
    """One assignment; `with_node` None allows both forms."""
    match = _NODE_KEY.fullmatch(text.strip())
    shape = "NODE:KEY=VALUE" if with_node else "KEY=VALUE"
    if match is None or (with_node is True) > (match["node"] is not None) or (with_node is False and match["node"]):
        why = f"{text!r} is not {shape}"
        example = "node1:devices=eth1" if with_node else "devices=eth0,eth1"
        raise InputError([Problem(file, line, "", why, f"write it as {example}")])
    return _Assignment(line, match["node"], spelled(match["key"]), match["value"])


def _settings(assignments: Iterable[_Assignment], file: str) -> Settings:
    problems = Problems()
    values: dict[str, str] = {}
    nodes: dict[str, dict[str, str]] = {}
    for line, node, key, value in assignments:
        if words := unknown(key):
            problems.append(Problem(file, line, key, *words))
        elif words := complaint(key, value):
            problems.append(Problem(file, line, f"{node}:{key}" if node else key, *words))
        (values if node is None else nodes.setdefault(node, {}))[key] = value
    problems.finish()
    per_node = tuple(NodeSettings(node, None, Values(values)) for node, values in nodes.items())
    return Settings(Values(values), per_node)


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
