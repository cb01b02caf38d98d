"""The dashboard: pages that a person reads, and the actions behind them, below /dashboard at the hub's HTTPS door."""
