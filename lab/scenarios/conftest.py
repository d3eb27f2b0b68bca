"""What holds in every scenario: on the built-in datapath, flows take the paths that `niclab predict` shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from niclab import Lab
from niclab.flow.verdict import compare


@pytest.fixture(autouse=True)
def as_predicted(request: pytest.FixtureRequest) -> Iterator[None]:
    """A flow on an unpredicted path is an error on the built-in datapath; of real agents the record lists it."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Lab = request.getfixturevalue("lab")
    measured = len(lab.flows)
    yield
    if lab.datapath == "builtin":
        reasons = {flow.name: compare(flow).unpredicted for flow in lab.flows[measured:]}
        wrong = [f"{name} did not do what is predicted. {reason}" for name, reason in reasons.items() if reason]
        assert not wrong, "\n".join(wrong)
