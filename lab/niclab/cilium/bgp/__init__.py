"""BGP between routers and nodes: sessions and what is learned over them (pure), and FRR, which really speaks it."""
