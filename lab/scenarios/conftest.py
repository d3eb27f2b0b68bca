"""What holds in every scenario: on the built-in datapath, flows do what `niclab predict` and `explain` say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from niclab import Lab
from niclab.flow.compare import compare


@pytest.fixture(autouse=True)
def as_predicted(request: pytest.FixtureRequest) -> Iterator[None]:
    """A flow of real agents that differs is in the record (`unpredicted`); on the built-in datapath it is an error."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Lab = request.getfixturevalue("lab")
    measured = len(lab.flows)
    yield
    if lab.datapath == "builtin":
        found = {result.name: compare(result, lab.expected(result)).unpredicted for result in lab.flows[measured:]}
        wrong = [f"{name} did not do what is predicted. {why}" for name, why in found.items() if why]
        assert not wrong, "\n".join(wrong)
