"""`niclab check`: is this machine able, what is missing, what to install."""

from __future__ import annotations

import dataclasses
import json
import sys

from niclab.host.features import PURPOSES, Feature, packages, probe, required_missing
from niclab.host.userns import is_able

ABLE, NOT_ABLE = 0, 2


def run(*, as_json: bool) -> int:
    features = probe()
    missing = required_missing(features)
    if as_json:
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A line for each purpose with all that is there, then a line for each thing that is not.
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    console = Console()
    for purpose in PURPOSES:
        group = [feature for feature in features if feature.needed_for == purpose]
        here = ", ".join(feature.name for feature in group if feature.present)
        if here:
            table.add_row(Text(purpose, "bold"), Text.assemble(("ok ", "green"), here))
        for number, feature in enumerate(one for one in group if not one.present):
            style = "bold red" if feature in missing else "yellow"
            reported = Text.assemble(("no ", style), feature.name, (f": {feature.detail}", "dim"))
            table.add_row(Text("" if here or number else purpose, "bold"), reported)
    console.print(table)

    if missing:
        console.print(f"\n[bold red]not able[/]: the built-in datapath lacks {', '.join(one.name for one in missing)}")
        for feature in missing:
            console.print(f"  {feature.name}: {feature.install}", markup=False, highlight=False)
    else:
        how = "" if is_able() else ", without root"
        console.print(f"\n[bold green]able[/]: the built-in datapath can run here{how}")
    wanted = packages(feature for feature in features if not feature.present)
    if wanted:
        console.print(f"to have everything: apt-get install {' '.join(wanted)}", markup=False, highlight=False)
