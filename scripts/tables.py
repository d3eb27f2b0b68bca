#!/usr/bin/env python3
"""Which agent flags and chart values each Cilium minor version has, read from checked-out source trees.

    scripts/tables.py TREE... [--to DIRECTORY]

A tree is a checkout of github.com/cilium/cilium: one of each minor version, of its newest patch. Written are two files
for `niclab.settings`: `agent-flags.txt` (from Documentation/cmdref, and what the Go sources hide from it) and
`chart-values.txt` (from the chart's values.yaml and templates). Nothing of the trees is copied but names and defaults.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path("install/kubernetes/cilium")
HIDING = re.compile(r"flags\.Mark(?:Hidden|Deprecated|ShorthandDeprecated)\(\s*([\w.]+|\"[^\"]+\")")
READ = re.compile(r"\bvp\.Get\w+\(([A-Z]\w+)\)")
CONSTANT = re.compile(r"^\s*(?:const\s+|var\s+)?(\w+)(?:\s+string)?\s*=\s*\"([a-z0-9][a-z0-9-]*)\"", re.MULTILINE)
ROW = re.compile(r"^ +(?:-\w, )?--([a-z0-9][a-z0-9.-]*)(?: (\w+))? {2,}(.*)$")
DEFAULT = re.compile(r"\(default (\"[^\"]*\"|[^()]*)\)\s*$")
OF_AGENTS = ("daemon", "pkg", "clustermesh-apiserver/option")
NOT_OF_AGENTS = ("pkg/hubble/relay", "pkg/ipam/allocator", "pkg/alibabacloud", "pkg/gops/test")


class Flag(NamedTuple):
    """`type`: pflag's word for it, `bool` where it has none. `default`: as --help prints it."""

    type: str
    default: str


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tree", nargs="+", type=Path)
    options.add_argument("--to", type=Path, default=Path("lab/niclab/settings/data"))
    chosen = options.parse_args()
    trees = {minor_of(tree): tree for tree in chosen.tree}
    read = ", ".join((tree / "VERSION").read_text().strip() for _, tree in sorted(trees.items()))
    _write(chosen.to / "agent-flags.txt", _FLAGS_HEAD.format(read=read), _flag_lines(trees))
    _write(chosen.to / "chart-values.txt", _VALUES_HEAD.format(read=read), _value_lines(trees))
    return 0


_FLAGS_HEAD = """\
# Every flag of cilium-agent and of the operator: FLAG TYPE DEFAULT WHERE...
# Made by scripts/tables.py from Cilium {read}.
# TYPE and DEFAULT are those of the newest version that has it; `-` is an empty default, a text with blanks is %-quoted.
# WHERE: agent, hidden (an agent's flag that --help does not list) or operator, with the minor versions that have it.
"""
_VALUES_HEAD = """\
# Every value of the Helm chart: PATH VERSIONS [FLAG...]
# Made by scripts/tables.py from Cilium {read}.
# A path that ends in `.` is a mapping with the values below it; one that ends in `.*` takes any others, too.
# FLAG: the keys of cilium-config that a template line writes from this value alone.
"""


def minor_of(tree: Path) -> int:
    return int((tree / "VERSION").read_text().split(".")[1])


def spans(minors: set[int]) -> str:
    """`16-18,20` from {16, 17, 18, 20}."""
    runs: list[list[int]] = []
    for minor in sorted(minors):
        if runs and runs[-1][-1] == minor - 1:
            runs[-1].append(minor)
        else:
            runs.append([minor])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _write(path: Path, head: str, lines: Iterator[str]) -> None:
    path.write_text(head + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(
        f"{path}: {sum(1 for line in path.read_text().splitlines() if not line.startswith('#'))} lines", file=sys.stderr
    )


def _flag_lines(trees: dict[int, Path]) -> Iterator[str]:
    known: dict[str, Flag] = {}
    where: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for minor, tree in sorted(trees.items()):
        agent = dict(listed(tree, "cilium-agent"))
        operator: dict[str, Flag] = {}
        for path in sorted((tree / "Documentation/cmdref").glob("cilium-operator*.md")):
            operator |= dict(listed(tree, path.stem))
        for reader, flags in (("operator", operator), ("agent", agent)):
            for name, flag in flags.items():
                known[name] = flag
                where[name][reader].add(minor)
        for name in hidden(tree) - agent.keys():
            known.setdefault(name, Flag("text", ""))
            where[name]["hidden"].add(minor)
    for name in sorted(known):
        kind, text = known[name]
        readers = " ".join(
            f"{reader}:{spans(where[name][reader])}"
            for reader in ("agent", "hidden", "operator")
            if reader in where[name]
        )
        yield f"{name} {kind} {quoted(text)} {readers}"


def quoted(text: str) -> str:
    return text.replace("%", "%25").replace(" ", "%20") or "-"


def listed(tree: Path, program: str) -> Iterator[tuple[str, Flag]]:
    """What `PROGRAM --help` lists, as the tree's command reference has it."""
    path = tree / "Documentation/cmdref" / f"{program}.md"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if row := ROW.match(line):
            name, kind, words = row[1], row[2] or "bool", row[3]
            given = DEFAULT.search(words)
            default = given[1].strip('"') if given else "false" if kind == "bool" else ""
            if name != "help":
                yield name, Flag(kind, "" if default == "[]" else default)


def hidden(tree: Path) -> set[str]:
    """What --help leaves out: flags that the sources hide or call deprecated, and keys that are no flags at all."""
    names = set()
    for path, text in sources(tree):
        local = dict(CONSTANT.findall(text))
        words = HIDING.findall(text) + (READ.findall(text) if path.name == "config.go" else [])
        for word in words:
            name = (
                word.strip('"') if word.startswith('"') else local.get(word) or constants(tree).get(word.split(".")[-1])
            )
            if name:
                names.add(name)
    return names


@cache
def sources(tree: Path) -> tuple[tuple[Path, str], ...]:
    every = []
    for top in OF_AGENTS:
        for path in sorted((tree / top).rglob("*.go")):
            below = path.relative_to(tree).as_posix()
            if not path.name.endswith("_test.go") and not below.startswith(NOT_OF_AGENTS):
                every.append((path, path.read_text(encoding="utf-8", errors="replace")))
    return tuple(every)


@cache
def constants(tree: Path) -> dict[str, str]:
    """Name of a Go constant → its text, where that looks like a flag; pkg/option last, which most names are of."""
    found: dict[str, str] = {}
    for _, text in sorted(sources(tree), key=lambda pair: "pkg/option/" in str(pair[0])):
        found.update(CONSTANT.findall(text))
    return found


def _value_lines(trees: dict[int, Path]) -> Iterator[str]:
    minors: dict[str, set[int]] = defaultdict(set)
    flags: dict[str, set[str]] = defaultdict(set)
    for minor, tree in sorted(trees.items()):
        for path in values(tree):
            minors[path].add(minor)
        for path, flag in written(tree):
            flags[path].add(flag)
    for path in sorted(minors):
        more = "".join(f" {flag}" for flag in sorted(flags.get(path, ())))
        yield f"{path} {spans(minors[path])}{more}"


def values(tree: Path) -> set[str]:
    """Every dotted path: of values.yaml, of what its comments document, and of what templates read."""
    chart = tree / CHART
    found = set(_paths(yaml.load(_uncommented(chart / "values.yaml"), yaml.CSafeLoader), ""))
    documented = re.findall(
        r":spelling:ignore:`([\w.\"/\[\]-]+)`", (tree / "Documentation/helm-values.rst").read_text()
    )
    found |= {path for path in documented if path != "Key"}
    whole: set[str] = set()
    for path in (chart / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            found |= set(VALUE.findall(text))
            found |= {f"{above}.{key}" for above, key in HAS_KEY.findall(text)}
            whole |= set(WHOLE.findall(text))
    found -= {"AsMap"}
    branches = {path[: dot.start()] for path in found for dot in re.finditer(r"\.", path)}
    free = {f"{path}.*" for path in whole & branches}
    return {path for path in found if path not in branches} | {f"{branch}." for branch in branches} | free


def _uncommented(path: Path) -> str:
    """The values with those that stand there as comments only, such as `# hostNamespaceOnly: false`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    before = yaml.load("\n".join(lines), yaml.CSafeLoader)
    for number, line in enumerate(lines):
        if match := COMMENTED.match(line):
            tried = [*lines[:number], f"{match[1]}{match[2]}", *lines[number + 1 :]]
            try:
                after = yaml.load("\n".join(tried), yaml.CSafeLoader)
            except yaml.YAMLError:
                continue
            if set(_paths(before, "")) < set(_paths(after, "")):
                lines, before = tried, after
    return "\n".join(lines)


def _paths(data: Any, above: str) -> Iterator[str]:
    for key, value in data.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{path}.")
        else:
            yield f"{path}.*" if value == {} else path


HAS_KEY = re.compile(r"hasKey\s+\$?\.Values\.([A-Za-z][\w.]*\w)\s+\"(\w+)\"")
WHOLE = re.compile(r"(?:toYaml|toJson|with|range)\b[^{}]*?\$?\.Values\.([A-Za-z][\w.]*\w)")
COMMENTED = re.compile(r"^(\s*)# ([a-z]\w*: (?:true|false|\d+|\"[^\"]*\"|'[^']*'|\[.*\]|\{.*\}|[\w./-]+)?)\s*$")
LINE = re.compile(r"^\s*([a-z0-9][a-z0-9-]+):\s*(.*\{\{.*\}\}.*)$")
VALUE = re.compile(r"\.Values\.([A-Za-z][\w.]*\w)")


def written(tree: Path) -> Iterator[tuple[str, str]]:
    """(value, key of cilium-config) for each template line that writes a key from one value."""
    text = (tree / CHART / "templates/cilium-configmap.yaml").read_text(encoding="utf-8")
    for line in text.splitlines():
        if (match := LINE.match(line)) and len(found := set(VALUE.findall(match[2]))) == 1:
            yield found.pop(), match[1]


if __name__ == "__main__":
    sys.exit(main())
