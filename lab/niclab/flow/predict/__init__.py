"""What should happen to a flow: its packets walked through the planned lab, without touching the kernel. Pure.

The plan has every route, rule and packet rule of every host; the walk applies them as the kernel would, and notes each
decision. Where a hash decides, each choice is a trace of its own.
"""

from niclab.flow.predict.world import World

__all__ = ["World"]
