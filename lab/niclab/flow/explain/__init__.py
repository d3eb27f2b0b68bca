"""`niclab explain`: the decisions that a flow meets, from the same walk that predicts it."""

from niclab.flow.explain.model import Explanation, schema
from niclab.flow.explain.text import lines

__all__ = ["Explanation", "lines", "schema"]
