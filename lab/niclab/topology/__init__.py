"""Topologies: what exists in a lab, as data."""
