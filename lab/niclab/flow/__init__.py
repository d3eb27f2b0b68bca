"""Flows: predicted and observed traces, their comparison, verdicts and shares. Pure."""
