"""Whatever is asked, there is an answer, or words of what is wrong with the question; and no two parts of an answer
contradict each other.

NICLAB_TEST_QUESTIONS and NICLAB_TEST_SEED ask more questions, or other ones. A failure names its seed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from niclab import Lab, World
from niclab.check import check_flow as complaint
from niclab.check import loads
from niclab.check.amend import with_kind
from niclab.check.topology import check
from niclab.cilium.decisions import Decisions
from niclab.cli.request import other_kind
from niclab.errors import LabError
from niclab.report import predicted, text
from niclab.report.matrix import render
from niclab.report.predicted import Explanation, Forecast
from niclab.request import Request, resolve
from niclab.settings import effective, formats
from niclab.topology.model import Topology, asked

from tests.support.agreeing import check_flow
from tests.support.anylab import Question, question
from tests.support.command import here
from tests.support.kernel import privileged

QUESTIONS, SEED = int(os.environ.get("NICLAB_TEST_QUESTIONS", "120")), int(os.environ.get("NICLAB_TEST_SEED", "0"))
SENT = int(os.environ.get("NICLAB_TEST_SENT", "8"))
"""Questions whose packets are sent."""


def topology_of(asked_for: Question) -> Topology:
    """As a file is read; the file's reader is slow, and only needed for what is wrong. Raises InputError."""
    try:
        topology = Topology.model_validate(asked_for.topology)
    except ValueError:
        return loads(asked_for.file, "any.yaml")
    return loads(asked_for.file, "any.yaml") if next(check(topology), None) else topology


def request_of(asked_for: Question) -> Request:
    topology = topology_of(asked_for)
    settings = [
        formats.parse_assignments([*asked_for.settings], version=asked_for.version),
        formats.parse_node_assignments([*asked_for.node_settings]),
    ]
    whole = with_kind(topology, asked_for.nics) if asked_for.nics else topology
    return resolve(whole, effective(settings), datapath="builtin", cilium_version=asked_for.version)


def answer(asked_for: Question) -> Counter[str]:
    """Everything that can be said of a question without a packet. Raises LabError."""
    request = request_of(asked_for)
    world = World(Decisions(request.topology, request.settings, request.version))
    flows = [asked(flow) for flow in asked_for.flows if _is_asked(request.topology, flow)]
    explanation = Explanation.of(world, flows, request.settings, asked_for.size)
    assert "".join(text.explanation(explanation)) and json.loads(explanation.to_json())
    row = predicted.row(world, {**predicted.columns(world), **dict.fromkeys(flows, 1)}, asked_for.size)
    forecast = Forecast(topology="any", cilium_version=str(request.version), nodes=1, rows=(row,))
    assert render(predicted.rows(forecast, "any"), width=140).strip()
    assert json.loads(forecast.to_json())
    assert all((*request.warnings, *other_kind(world.decisions)))
    counted = Counter(ways=0, exits=len(world.decisions.nodes) - len(world.decisions.running))
    for flow in flows:
        check_flow(world, flow, asked_for.size)
        ways = world.predict(flow, asked_for.size)
        assert bool(ways) != bool(world.why_not(flow))
        for way in ways:
            assert (way.reply is None) == (way.request.arrived is None) == bool(way.request.lost)
            assert [*way.request.decided] and all(step.words for _, path in way.paths for _, step in path.decided)
        counted["ways"] += len(ways)
    return counted


def _is_asked(topology: Topology, flow: str) -> bool:
    return complaint(topology, asked(flow)) is None


@pytest.mark.timeout(3600)
def test_every_question_has_an_answer_that_does_not_contradict_itself() -> None:
    counted: Counter[str] = Counter()
    for seed in range(SEED, SEED + QUESTIONS):
        asked_for = question(Random(seed))
        try:
            counted += answer(asked_for)
            counted["answered"] += 1
        except LabError as error:
            assert str(error).strip()
            counted["refused"] += 1
        except Exception as error:
            error.add_note(f"seed {seed}: {asked_for}")
            raise
    print(dict(counted))
    assert counted["answered"] > QUESTIONS * 0.6 and counted["ways"] > QUESTIONS
    assert counted["refused"] and counted["exits"]


@pytest.mark.timeout(3600)
def test_the_command_line_says_so(tmp_path: Path) -> None:
    """The verbs that send nothing: each ends with an answer or with words, never with a traceback."""
    verbs = itertools.cycle([("explain",), ("predict",), ("validate",), ("explain", "-o", "json")])
    ended: Counter[int] = Counter()
    for seed, verb in zip(range(SEED, SEED + QUESTIONS // 4), verbs, strict=False):
        asked_for = question(Random(seed))
        file = tmp_path / "any.yaml"
        file.write_text(asked_for.file)
        words = asked_for.arguments(str(file), expected=verb[0] == "explain") if verb[0] != "validate" else [str(file)]
        done = here(*verb, *words)
        assert "Traceback" not in done.err, f"seed {seed}: {verb}\n{done.err}"
        assert done.status == 2 or done.out, f"seed {seed}: {verb}"
        assert done.status != 2 or done.err
        ended[done.status] += 1
    assert ended[0] > ended[2] > 0


@privileged
@pytest.mark.timeout(3600)
def test_every_question_is_sent_or_refused_in_words() -> None:
    """On the kernel, with the links that every kernel has: whatever stops a lab is a LabError."""
    sent: Counter[str] = Counter()
    for seed in range(SEED, SEED + SENT):
        asked_for = question(Random(seed), kinds=("bridge", "loopback"))
        try:
            request = request_of(asked_for)
            with Lab.of(request) as lab:
                flows = [asked(flow) for flow in asked_for.flows if _is_asked(request.topology, flow)]
                sent.update(result.verdict for result in lab.send_all(flows, count=2, size=asked_for.size))
        except LabError as error:
            sent["refused"] += bool(str(error).strip())
        except Exception as error:
            error.add_note(f"seed {seed}: {asked_for}")
            raise
    print(dict(sent))
    assert sent["carried"] and sent["lost"]
