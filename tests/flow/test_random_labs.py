"""Random labs: whatever they are, selection and prediction have an answer, and the kernel does what was predicted.

NICLAB_TEST_LABS and NICLAB_TEST_SEED ask for more labs, or other ones, on the kernel; NICLAB_TEST_EXAMPLES for more
without it. A seed that was found wrong is seen again with `python -m tests.support.randomrun SEED NEXT`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from niclab import Flow, World
from niclab.cilium.decisions import Decisions
from niclab.flow.predict import interchangeable
from niclab.report import predicted, text
from niclab.report.predicted import Explanation

from tests.support.kernel import privileged
from tests.support.randomlab import alike_lab, linked_lab, random_lab

LABS, SEED = int(os.environ.get("NICLAB_TEST_LABS", "200")), int(os.environ.get("NICLAB_TEST_SEED", "0"))
EXAMPLES = int(os.environ.get("NICLAB_TEST_EXAMPLES", "300"))
PROCESSES = 4
"""Most of a lab's time is waiting for answers that do not come."""


@pytest.mark.timeout(600)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_every_lab_has_an_answer(rng: Random) -> None:
    """No lab and no settings are too odd to select devices, to refuse, to predict and to explain."""
    made = random_lab(rng, flows=3)
    hypothesis.assume(made is not None)
    assert made is not None
    hypothesis.note(str(made))
    world = World(Decisions(made.topology, made.settings, made.version))
    for node in world.decisions.nodes.values():
        assert set(node.selected) <= {device.name for device in node.devices if device.selected}
        assert (node.agent_exits is None) == (node.node in world.decisions.running)
    for flow in made.flows:
        hypothesis.note(str(flow))
        ways = world.predict(flow)
        assert bool(ways) != bool(world.why_not(flow))
        assert predicted.cell(world, flow, ways).text
        for way in ways:
            assert (way.reply is None) == (way.request.arrived is None)
            assert way.request.hops and [*way.request.decided]
            assert bool(way.request.lost) == (way.request.arrived is None)
    explanation = Explanation.of(world, list(made.flows), made.settings)
    assert "".join(text.explanation(explanation)) and json.loads(explanation.to_json())


@pytest.mark.timeout(600)
@hypothesis.settings(max_examples=EXAMPLES // 6, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_every_lab_of_links_has_an_answer(rng: Random) -> None:
    """Bonds in every mode, VLANs, bridges, VRFs, dummies, and policies about them, by every version's rules."""
    made = linked_lab(rng)
    hypothesis.assume(made is not None)
    assert made is not None
    hypothesis.note(str(made))
    world = World(Decisions(made.topology, made.settings, made.version))
    for flow in made.flows:
        hypothesis.note(str(flow))
        ways = world.predict(flow)
        assert bool(ways) != bool(world.why_not(flow))
        assert predicted.cell(world, flow, ways).text
    for name in world.decisions.nodes:
        assert all(isinstance(line, str) for line in world.decisions.warnings(name))


@pytest.mark.timeout(600)
@hypothesis.settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_interchangeable_nodes_have_interchangeable_flows(rng: Random) -> None:
    """What `niclab predict` shows once holds for every flow that it stands for."""
    made = alike_lab(rng)
    hypothesis.assume(made is not None)
    assert made is not None
    world = World(Decisions(made.topology, made.settings, made.version))
    groups = interchangeable.classes(world.decisions)
    hypothesis.assume(len(groups) < 4)

    def end(node: str) -> str:
        one = made.topology.nodes[node]
        return next(iter(one.pods), f"{node}.{next(iter(one.nics))}")

    for mine, theirs in itertools.product(groups, groups):
        flows = [Flow(source=end(a), destination=end(b)) for a, b in itertools.product(mine, theirs) if a != b]
        assert len({predicted.cell(world, flow, world.predict(flow)) for flow in flows}) <= 1


@privileged
@pytest.mark.timeout(1800)
def test_the_kernel_does_what_is_predicted() -> None:
    """On the built-in datapath: every probe of every flow took one of the ways that were predicted for it."""
    share = -(-LABS // PROCESSES)
    ranges = [(SEED + n * share, SEED + min((n + 1) * share, LABS)) for n in range(PROCESSES)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.randomrun", str(first), str(last)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for first, last in ranges
    ]
    counted: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    for one in running:
        out, _ = one.communicate()
        assert one.returncode == 0
        for line in out.splitlines():
            told = json.loads(line)
            if "counted" in told:
                counted.update(told["counted"])
            else:
                wrong.append(told)
    print(dict(counted))
    assert not wrong, "\n\n".join(f"seed {one['seed']}: {one.get('flow')}: {one['wrong']}" for one in wrong)
    assert counted["labs"] >= LABS * 0.8
    assert counted["asked twice"] <= max(LABS // 20, 4)
    assert counted["carried"] > counted["labs"] and counted["lost"] > counted["labs"]
