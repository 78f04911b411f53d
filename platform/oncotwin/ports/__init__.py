"""What the core asks of the world: typed protocols, met by `oncotwin.adapters`."""
