"""Random labs on the kernel: `python -m tests.randomrun FIRST LAST` prints one JSON line for each disagreement.

The last line counts labs and flows. A seed's lab is the same every time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from random import Random

from lab import Lab, World
from lab.agreement import unpredicted
from lab.errors import LabError
from tests.randomlab import random_lab


def main(first: int, last: int) -> None:
    counted: Counter[str] = Counter()
    for seed in range(first, last):
        made = random_lab(Random(seed))
        if made is None:
            continue
        counted["labs"] += 1
        try:
            with Lab.deploy(made.topology, made.settings, cilium_version=str(made.version)) as lab:
                results = lab.send_all(made.flows, count=2)
        except LabError as error:
            print(json.dumps({"seed": seed, "wrong": f"it cannot be built: {error}", "lab": str(made)}), flush=True)
            continue
        world = World(lab.decisions)
        for result in results:
            counted[result.verdict] += 1
            if result.verdict == "unmeasured" and not result.measurement.holds and result.measurement.taps:
                print(json.dumps({"seed": seed, "wrong": f"not measured: {result.measurement}"}), flush=True)
            ways = world.predict(result.flow)
            counted["by chance"] += len(ways) > 1
            if why := unpredicted(result, ways):
                wrong = {"seed": seed, "flow": str(result.flow), "wrong": why, "lab": str(made)}
                print(json.dumps(wrong), flush=True)
    print(json.dumps({"counted": dict(counted)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
