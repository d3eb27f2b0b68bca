"""Probes and taps: what is sent, what is seen, and how one is recognised in the other."""
