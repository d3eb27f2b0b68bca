"""`niclab check`: is this machine able, what is missing, what to install."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap

from niclab.host.features import PURPOSES, Feature, packages, probe, required_missing
from niclab.host.userns import is_able

ABLE, NOT_ABLE = 0, 2
_WIDTH = 100


def run(options: argparse.Namespace) -> int:
    features = probe()
    missing = required_missing(features)
    if options.output == "json":
        json.dump(_report(features, missing), sys.stdout, indent=2)
        print()
    else:
        _print(features, missing)
    return NOT_ABLE if missing else ABLE


def _report(features: tuple[Feature, ...], missing: tuple[Feature, ...]) -> dict[str, object]:
    return {
        "able": not missing,
        "missing": [feature.name for feature in missing],
        "install": list(packages(feature for feature in features if not feature.present)),
        "features": [dataclasses.asdict(feature) for feature in features],
    }


def _print(features: tuple[Feature, ...], missing: tuple[Feature, ...]) -> None:
    """For each purpose a line with all that is there, then a line for each thing that is not."""
    width = max(map(len, PURPOSES)) + 2
    for purpose in PURPOSES:
        group = [feature for feature in features if feature.needed_for == purpose]
        here = ", ".join(feature.name for feature in group if feature.present)
        absent = [": ".join(filter(None, (f.name, f.detail))) for f in group if not f.present]
        lines = [*([f"ok {here}"] if here else []), *(f"no {words}" for words in absent)]
        for number, line in enumerate(lines):
            first = ("" if number else purpose).ljust(width)
            print(textwrap.fill(line, _WIDTH, initial_indent=first, subsequent_indent=" " * (width + 3)))
    print()
    if missing:
        print(f"not able: the built-in datapath lacks {', '.join(feature.name for feature in missing)}")
        for feature in missing:
            print(f"  {feature.name}: {feature.install}")
    else:
        print("able: the built-in datapath can run here" + ("" if is_able() else ", without root"))
    if wanted := packages(feature for feature in features if not feature.present):
        print(f"to have everything: apt-get install {' '.join(wanted)}")
