"""A pure model of Cilium, by version: selection, refusals, decisions, services, egress, masquerading."""
