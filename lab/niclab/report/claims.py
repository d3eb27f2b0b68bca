"""Claims and issues in a record: what each one's tests proved, with the evidence, as text, JSON and Markdown. Pure.

A *claim* is a sentence that somebody wrote; its verdict is what its tests prove. An *issue* is one of Cilium's tracker.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VERDICTS = ("true", "partly", "false")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one test answers. A claim has a verdict and the `truth`; an issue (`kind`) has its number."""

    kind: str
    says: str
    number: int | None = None
    verdict: str = ""
    truth: str = ""

    def folded(self) -> dict[str, Any]:
        """As it is in run.json."""
        fields = {"kind": self.kind, "number": self.number, "says": self.says}
        return {**fields, "verdict": self.verdict, "truth": self.truth} if self.kind == "claim" else fields


@dataclass(frozen=True, slots=True)
class Proof:
    """A claim's outcome on one version: `proved` when every test of it passed; `seen` and `ran` are the evidence."""

    claim: Mapping[str, Any]
    version: str
    outcomes: tuple[str, ...]
    seen: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def proved(self) -> bool:
        return bool(self.outcomes) and all(outcome == "passed" for outcome in self.outcomes)

    @property
    def verdict(self) -> str:
        """A claim's verdict, if its tests proved it."""
        if set(self.outcomes) == {"skipped"}:
            return "not measured"
        return str(self.claim["verdict"]) if self.proved else "not proved"


def proofs(tests: Sequence[Mapping[str, Any]], kind: str) -> list[Proof]:
    """The claims (or issues) of a record's `tests`, in order, each with its evidence; one per version."""
    claims: dict[tuple[str, str], Mapping[str, Any]] = {}
    answering: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for test in sorted(tests, key=lambda test: (str(test["test"]).partition("::")[0], test.get("line") or 0)):
        for claim in test.get("claims", ()):
            if claim["kind"] == kind:
                key = (str(claim["number"] or claim["says"]), str(test["cilium_version"]))
                claims.setdefault(key, claim)
                answering.setdefault(key, []).append(test)
    return [_proof(claim, key[1], answering[key]) for key, claim in claims.items()]


def _proof(claim: Mapping[str, Any], version: str, tests: list[Mapping[str, Any]]) -> Proof:
    commands = [command for test in tests for command in test["commands"]]
    return Proof(
        claim=claim,
        version=version,
        outcomes=tuple(str(test.get("outcome", "unknown")) for test in tests),
        seen=tuple(dict.fromkeys(line for test in tests for line in _seen(test))),
        ran=tuple(dict.fromkeys(f"{ran['host']}$ {ran['line']}\n{ran['output']}" for ran in commands)),
        tests=tuple(str(test["test"]) for test in tests),
    )


def _seen(test: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, a line per flow (`devices eth1: pod1→ext0 eth0 snat`); else what the agents reported."""
    matrix = test.get("matrix") or {}
    label = matrix.get("label", "")
    for cell in matrix.get("cells", ()):
        yield f"devices {label}: {cell['flow']} {cell['text']}"
    for name, node in test.get("nodes", {}).items() if not matrix.get("cells") else ():
        exits = f"agent exits: {node['agent_exits']}" if node["agent_exits"] else ""
        yield f"devices {label}: {name} {exits or 'selects ' + ' '.join(node['devices'])}"


_SEEN = 6
"""Lines of evidence shown per claim and version; the record has them all."""


def as_json(proofs: Sequence[Proof]) -> list[dict[str, Any]]:
    """Every claim with its versions' outcomes and evidence."""
    return [
        {
            **proof.claim,
            "cilium_version": proof.version,
            "outcome": "proved" if proof.proved else "not proved",
            "seen": list(proof.seen),
            "commands": list(proof.ran),
            "tests": list(proof.tests),
        }
        for proof in proofs
    ]


def _together(proofs: Sequence[Proof]) -> list[list[Proof]]:
    """The same claim on each version: claims in the record's order, issues by number."""
    groups: dict[tuple[int, str], list[Proof]] = {}
    for proof in proofs:
        number = proof.claim["number"]
        groups.setdefault((number, "") if number else (0, proof.claim["says"]), []).append(proof)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def verdict(versions: Sequence[Proof]) -> str:
    """A claim's verdict in a word or, where versions differ, in one each."""
    words = {proof.version: proof.verdict for proof in versions}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{word} on {version}" for version, word in words.items())


def text(proofs: Sequence[Proof], *, width: int = 120) -> str:
    """One paragraph per claim."""
    parts = []
    for number, versions in enumerate(_together(proofs), 1):
        claim = versions[0].claim
        head = f"#{claim['number']}" if claim["kind"] == "issue" else f"{number:2} {verdict(versions).upper()}"
        lines = _wrapped(f"{head}  {claim['says']}", width, "")
        if claim.get("truth"):
            lines += _wrapped(f"so: {claim['truth']}", width, "    ")
        for proof in versions:
            outcome = "" if proof.proved else f" ({', '.join(dict.fromkeys(proof.outcomes))})"
            lines += [f"    {proof.version}{outcome}:", *(f"      {line}" for line in _few(proof.seen))]
        lines += [f"      {line}" for ran in versions[0].ran for line in _few(ran.splitlines())]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _few(lines: Sequence[str]) -> Iterable[str]:
    more = len(lines) - _SEEN
    return [*lines[:_SEEN], *([f"… and {more} more in the record"] if more > 0 else [])]


def _wrapped(words: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=f"{indent}    ")


def markdown(proofs: Sequence[Proof], *, title: str, measured: str) -> str:
    """A document with one table; `measured` says when, with what and on which versions."""
    claims = bool(proofs) and proofs[0].claim["kind"] == "claim"
    versions = list(dict.fromkeys(proof.version for proof in proofs))
    first = ["claim", "verdict", "what is so"] if claims else ["issue", "about"]
    head = [*first, *(f"seen on {version}" for version in versions)]
    lines = [f"# {title}", "", measured, "", _line(head), _line(["---"] * len(head))]
    for group in _together(proofs):
        claim = group[0].claim
        cells = [claim["says"], verdict(group), claim["truth"]] if claims else [f"#{claim['number']}", claim["says"]]
        by_version = {proof.version: proof for proof in group}
        cells += [_cell(by_version.get(version)) for version in versions]
        lines.append(_line(cells))
    if any(proof.ran for proof in proofs):
        lines += ["", "## What the commands printed"]
    for group in _together(proofs):
        outputs: dict[str, list[str]] = {}
        for proof in group:
            for output in proof.ran:
                outputs.setdefault(output, []).append(proof.version)
        lines += ["", f"### {group[0].claim['says']}"] if outputs else []
        for output, on in outputs.items():
            lines += ["", f"{' and '.join(on)}:", "", *(f"    {line}".rstrip() for line in output.splitlines())]
    return "\n".join(lines).rstrip() + "\n"


def _cell(proof: Proof | None) -> str:
    if proof is None:
        return "–"
    seen = "<br>".join(proof.seen)
    return seen if proof.proved else f"**{', '.join(dict.fromkeys(proof.outcomes))}**<br>{seen}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(tests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for the claims and a line for the issues of a run; none where it has none."""
    if claims := _together(proofs(tests, "claim")):
        counts = Counter(verdict(versions) for versions in claims)
        yield f"claims: {len(claims)}: " + ", ".join(f"{count} {words}" for words, count in counts.most_common())
    if issues := _together(proofs(tests, "issue")):
        shown = sum(all(proof.proved for proof in versions) for versions in issues)
        yield f"issues: {shown} of {len(issues)} shown"
