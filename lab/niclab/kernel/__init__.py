"""A pure model of Linux: forwarding tables, rules, stacked links, reverse path filter, and the plan of a lab."""
