"""iproute2's words as values: routes, rules, packet rules, kernel operations, nftables text. Pure."""
