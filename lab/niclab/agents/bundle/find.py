"""Finding the bundle that a run asked for: the environment's first, then the store's, the newest that fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from niclab.agents.bundle import install, store
from niclab.agents.bundle.model import CILIUM, KUBERNETES, Bundle, CiliumBundle, KubernetesBundle, Product
from niclab.agents.bundle.store import Record
from niclab.cilium.version import Age, age
from niclab.errors import LabError

B = TypeVar("B", bound=Bundle)


def find_cilium(wanted: str | None = None) -> CiliumBundle:
    """The newest bundle that has this name, this version or this minor version; without `wanted` the newest.

    Those of NICLAB_CILIUM (directories and names, with `:` between) come before the store's. Raises LabError.
    """
    return _find(CILIUM, wanted)


def find_kubernetes(wanted: str | None = None) -> KubernetesBundle:
    """As `find_cilium`, with NICLAB_KUBERNETES. Raises LabError."""
    return _find(KUBERNETES, wanted)


def all_cilium() -> tuple[CiliumBundle, ...]:
    """Every bundle that can be used, newest first, a name once. Raises LabError when NICLAB_CILIUM is wrong."""
    return _all(CILIUM)


def all_kubernetes() -> tuple[KubernetesBundle, ...]:
    """As `all_cilium`."""
    return _all(KUBERNETES)


def environment(product: Product[Any]) -> list[Record]:
    """What the product's variable names, as records; an entry that is wrong has a `problem`."""
    found: list[Record] = []
    for entry in os.environ.get(product.variable, "").split(os.pathsep):
        if not entry:
            continue
        named = None if os.sep in entry else store.record(product, entry)
        path = Path(entry).absolute()
        if any(path.name == other.name for other in found):
            problem = f"{product.variable} has two entries of this name"
            found.append(Record(path.name, "directory", "", path, product.variable, problem=problem))
        elif named is None and not path.is_dir():
            problem = "neither a directory nor a bundle of the store"
            found.append(Record(entry, "directory", "", path, product.variable, problem=problem))
        else:
            found.append(named or Record(path.name, "directory", "", path, product.variable))
    return found


def opened(product: Product[B], record: Record) -> B:
    """The bundle of a record. A directory is read anew: it may have been built again. Raises LabError."""
    if record.problem:
        raise LabError(f"the {product.title} bundle {record.name!r} cannot be used", why=record.problem)
    if record.kind == "directory":
        return install.directory(product, record.name, record.path)
    bundle = product.make(record.name, record.version, record.path, "image")
    if lacking := bundle.missing():
        raise LabError(
            f"the {product.title} bundle {record.name!r} is broken",
            why=f"missing in it: {', '.join(lacking)}",
            fix=f"niclab {product.name} rm {record.name}, and pull or load it again",
        )
    return bundle


def _find(product: Product[B], wanted: str | None) -> B:
    listed: list[str] = []
    for by_hand, records in ((True, environment(product)), (False, store.records(product))):
        fitting: list[B] = []
        # A name is meant more exactly than a version; and it saves asking all the others for theirs.
        for record in [record for record in records if record.name == wanted] or records:
            try:
                bundle = opened(product, record)
            except LabError as error:
                # One that was asked for by name, or named in the environment, must not be passed over silently.
                if record.name == wanted or by_hand:
                    raise
                listed.append(f"{record.name} ({error.why or error.what})")
                continue
            listed.append(record.name if record.name == bundle.version else f"{record.name} ({bundle.version})")
            if _fits(bundle, wanted):
                fitting.append(bundle)
        if fitting:
            return max(fitting, key=lambda bundle: _rank(product, bundle))
    which = f" {wanted}" if wanted else ""
    raise LabError(
        f"there is no{which} bundle of {product.title} on this machine",
        why=f"{product.variable} is {os.environ.get(product.variable) or 'not set'}; "
        f"found: {', '.join(listed) or f'none in {store.place(product)}'}",
        fix=product.ways(),
    )


def _rank(product: Product[Any], bundle: Bundle) -> tuple[Age, bool]:
    """Newer is better; of one version that is which has its companion."""
    return age(bundle.version), bundle.program(*product.companion.programs) is not None


def _fits(bundle: Bundle, wanted: str | None) -> bool:
    if wanted is None or wanted == bundle.name:
        return True
    return wanted.removeprefix("v") in (bundle.version, bundle.minor)


def _all(product: Product[B]) -> tuple[B, ...]:
    found = {bundle.name: bundle for bundle in reversed(list(_usable(product)))}
    return tuple(sorted(found.values(), key=lambda bundle: _rank(product, bundle), reverse=True))


def _usable(product: Product[B]) -> Iterator[B]:
    for record in environment(product):
        yield opened(product, record)
    for record in store.records(product):
        try:
            yield opened(product, record)
        except LabError:
            continue
