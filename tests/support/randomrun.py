"""Random labs on the kernel: `python -m tests.support.randomrun FIRST LAST` prints one JSON line for each disagreement.

The last line counts labs and flows. A seed's lab is the same every time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from niclab import Flow, Lab
from niclab.errors import LabError
from niclab.flow.verdict import compare
from niclab.host import readiness

from tests.support.randomlab import random_lab


def disagreements(lab: Lab, flows: Sequence[Flow], counted: Counter[str]) -> Iterator[dict[str, str]]:
    """Flows that did not do what is predicted, twice: on a machine that has much else to do, an answer may come after
    a measurement has given it up. How many flows were asked twice is counted. Nor does one flow's packet that waits for
    an answer to its ARP request, in vain for its reverse path filter, keep the others waiting the second time.
    """
    again: list[Flow] = []
    for result in lab.send_all(flows, count=2):
        counted[result.verdict] += 1
        counted["by chance"] += len(result.expected) > 1
        if compare(result).unpredicted:
            again.append(result.flow)
    counted["asked twice"] += len(again)
    if again:
        readiness.forget_neighbours(lab._substrate, lab.topology.hosts)
    for result in lab.send_all(again, count=2) if again else ():
        if why := compare(result).unpredicted:
            yield {"flow": str(result.flow), "wrong": why}
        elif result.verdict == "unmeasured" and not result.measurement.holds and result.measurement.taps:
            yield {"flow": str(result.flow), "wrong": f"not measured: {result.measurement}"}


def main(first: int, last: int) -> None:
    counted: Counter[str] = Counter()
    for seed in range(first, last):
        made = random_lab(Random(seed))
        if made is None:
            continue
        counted["labs"] += 1
        try:
            with Lab.deploy(made.topology, made.settings, cilium_version=str(made.version)) as lab:
                for wrong in disagreements(lab, made.flows, counted):
                    print(json.dumps({"seed": seed, **wrong, "lab": str(made)}), flush=True)
        except LabError as error:
            print(json.dumps({"seed": seed, "wrong": f"it cannot be built: {error}", "lab": str(made)}), flush=True)
    print(json.dumps({"counted": dict(counted)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
