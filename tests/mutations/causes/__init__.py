"""What every scenario stands on: for each of them a cause, and what is in its place when it is taken away.

A scenario that passes all the same proves nothing. `tests.test_causes` runs each with its twists, and each must fail.
"""
