"""Waiting: asked at once, asked again, given up at the deadline."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
from niclab.errors import LabError
from niclab.host import process
from niclab.host.waiting import patient, try_until, wait_until

T = TypeVar("T")


def answers(given: Iterable[T]) -> tuple[Callable[[], T], list[T]]:
    """A check that answers with these in turn, and the list of what it has answered so far."""
    source, answered = iter(given), []

    def check() -> T:
        answered.append(next(source))
        return answered[-1]

    return check, answered


def test_the_first_check_is_made_at_once_and_may_be_the_only_one() -> None:
    check, answered = answers([7, 8])
    assert wait_until(check, 0) == 7
    assert answered == [7]


def test_it_asks_until_the_answer_is_true() -> None:
    check, answered = answers([0, 0, 5, 6])
    assert wait_until(check, 5, every=0.001) == 5
    assert answered == [0, 0, 5]


def test_what_is_missing_is_waited_for_until_nothing_is() -> None:
    check, _ = answers([["a", "b"], ["b"], []])
    assert wait_until(check, 5, done=operator.not_, every=0.001) == []


def test_after_the_deadline_the_last_answer_is_returned() -> None:
    assert wait_until(lambda: ["a"], 0.01, done=operator.not_, every=0.001) == ["a"]


def test_a_named_exception_is_not_yet_and_raised_after_the_deadline() -> None:
    raised = [FileNotFoundError("no"), BlockingIOError("no")]

    def check() -> str:
        if raised:
            raise raised.pop()
        return "there"

    assert wait_until(check, 5, every=0.001, retry=(FileNotFoundError, BlockingIOError)) == "there"

    def never() -> None:
        raise FileNotFoundError("never")

    with pytest.raises(FileNotFoundError, match="never"):
        wait_until(never, 0.01, every=0.001, retry=FileNotFoundError)


def test_an_act_is_tried_until_it_raises_nothing() -> None:
    raised = [FileNotFoundError("no"), FileNotFoundError("no")]

    def act() -> None:
        if raised:
            raise raised.pop()

    try_until(act, 5, retry=FileNotFoundError, every=0.001)
    assert not raised


def test_any_other_exception_is_raised_at_once() -> None:
    check, answered = answers([0])
    with pytest.raises(StopIteration):
        wait_until(check, 5, every=0.001, retry=OSError)
    assert answered == [0]


def test_on_an_emulated_machine_every_deadline_is_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patient(3) == 3
    with pytest.raises(LabError, match=r"took over 0\.05 s"):
        process.run(["sleep", "0.2"], timeout=0.05)
    monkeypatch.setenv("NICLAB_PATIENCE", "200")
    assert patient(0.05) == 10
    process.run(["sleep", "0.2"], timeout=0.05)
    check, answered = answers([0] * 30 + [5])
    began = time.monotonic()
    assert wait_until(check, 0.05, every=0.0001) == 5
    assert len(answered) == 31
    assert time.monotonic() - began > 30 * 0.02


@pytest.mark.parametrize("factor", ["long", "0.5", "-3", "nan", "inf"])
def test_a_patience_that_is_no_factor_is_an_error(monkeypatch: pytest.MonkeyPatch, factor: str) -> None:
    monkeypatch.setenv("NICLAB_PATIENCE", factor)
    with pytest.raises(LabError, match=f"NICLAB_PATIENCE is '{factor}'"):
        patient(1)
