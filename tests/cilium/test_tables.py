"""The tables of words have what is asked for, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import niclab
import pytest
from niclab.cilium.tables import paragraphs, reason

SOURCES = [path.read_text() for path in Path(niclab.__file__).parent.rglob("*.py")]


def test_every_reason_of_the_table_is_given_somewhere() -> None:
    text = "\n".join(SOURCES)
    assert [rule for rule in paragraphs("reasons") if f'"{rule}"' not in text] == []


def test_every_reason_that_is_given_is_in_the_table() -> None:
    given = {rule for text in SOURCES for rule in re.findall(r'(?:reason|exempt)\(\s*"([a-z.-]+)"', text)}
    assert len(given) > 30
    assert given <= {*paragraphs("reasons")}


@pytest.mark.parametrize("rule", paragraphs("reasons"))
def test_a_reason_has_words_and_a_source(rule: str) -> None:
    words, source = paragraphs("reasons")[rule]
    assert words and source and not words.endswith(".")


def test_values_are_filled_in_and_inputs_are_left() -> None:
    why = reason("service.taken-in", frontend="192.0.2.1:80/TCP", service="web", kind="LoadBalancer")
    assert why.words == "{iif} is selected and 192.0.2.1:80/TCP is a frontend of web (LoadBalancer): taken in"
