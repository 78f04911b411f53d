"""The only wiring: settings in, adapters out. A flow run on another machine builds its own adapters here."""
