"""What was measured beside what was predicted."""

from __future__ import annotations

from niclab import FlowResult, Lab
from niclab.flow.verdict import compare


def disagreements(lab: Lab, results: list[FlowResult]) -> list[str]:
    """The flows that took no predicted path, each with what it did instead."""
    reasons = [(result, compare(result).unpredicted) for result in results]
    return [f"{result.name}: {reason}\n{result.explanation}" for result, reason in reasons if reason]
