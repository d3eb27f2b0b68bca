"""`niclab cilium` and `niclab kubernetes`: pull, load, add, ls and rm of bundles."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from niclab.agents.bundle import CILIUM, KUBERNETES, Bundle, Product, install, store
from niclab.agents.bundle.store import environment, usable
from niclab.cli import PASS
from niclab.errors import LabError


def _product(options: argparse.Namespace) -> Product:
    return CILIUM if options.verb == "cilium" else KUBERNETES


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pull(options: argparse.Namespace) -> int:
    bundle = install.pull(
        _product(options),
        options.image,
        name=options.name,
        digest=options.digest,
        companion=options.companion,
        say=_say,
    )
    return _have(bundle)


def load(options: argparse.Namespace) -> int:
    companion = Path(options.companion) if options.companion else None
    bundle = install.load(_product(options), Path(options.archive), name=options.name, companion=companion, say=_say)
    return _have(bundle)


def add(options: argparse.Namespace) -> int:
    return _have(install.add(_product(options), options.name, Path(options.directory)))


def _have(bundle: Bundle) -> int:
    print(f"{bundle.name}: version {bundle.version}, {bundle.kind} {bundle.path}")
    if bundle.product is CILIUM and bundle.companion is None:
        _say("warning: it has no operator, which the kubernetes control plane needs (the kvstore one does not)")
    return PASS


def rm(options: argparse.Namespace) -> int:
    for name in options.name:
        record = store.remove(_product(options), name)
        print(f"{name}: {'removed' if record.kind == 'image' else f'forgotten; {record.path} is untouched'}")
    return PASS


def ls(options: argparse.Namespace) -> int:
    product = _product(options)
    rows = [_row(record, product.variable) for record in environment(product)]
    rows += [_row(record, "store") for record in store.records(product)]
    if options.output == "json":
        print(json.dumps(rows, indent=1))
        return PASS
    if not rows:
        print(f"no bundle of {product.title}: {product.ways()}")
        return PASS
    table = [("NAME", "VERSION", "KIND", "DIGEST", "SOURCE")]
    table += [(r["name"], r["version"] or "?", r["kind"], r["digest"][:19] or "-", r["source"]) for r in rows]
    widths = [*(max(map(len, column)) for column in list(zip(*table, strict=True))[:4]), 0]
    for line, problem in zip(table, ["", *(row["problem"] for row in rows)], strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        if problem:
            print(f"  cannot be used: {problem}")
    return PASS


def _row(record: Bundle, known_by: str) -> dict[str, str]:
    """A line of the list; a directory tells its version now, whatever it was when it was added."""
    version, problem = record.version, ""
    try:
        version = usable(record).version
    except LabError as error:
        problem = error.why or error.what
    shown = {"name": record.name, "version": version, "kind": record.kind, "path": str(record.path)}
    shown |= {"digest": record.digest, "when": record.when, "source": record.source}
    return {**shown, "known_by": known_by, "problem": problem}
