"""What holds in every scenario: on the built-in datapath, flows do what `niclab predict` and `explain` say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from niclab import Lab
from niclab.flow.compare import unpredicted


@pytest.fixture(autouse=True)
def as_predicted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of real agents it is told in the record (`unpredicted`); of the model's own datapath it is an error."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab: Lab = request.getfixturevalue("lab")
    measured = len(lab.flows)
    yield
    if lab.datapath == "builtin":
        found = {result.name: unpredicted(result, lab.expected(result)) for result in lab.flows[measured:]}
        wrong = [f"{name} did not do what is predicted. {why}" for name, why in found.items() if why]
        assert not wrong, "\n".join(wrong)
