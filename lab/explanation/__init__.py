"""`niclab explain`: the decisions that a flow meets, from the same walk that predicts it."""

from lab.explanation.model import Explanation, schema
from lab.explanation.text import lines

__all__ = ["Explanation", "lines", "schema"]
