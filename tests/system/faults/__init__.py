"""Faults on purpose, and what must hold all the while: `make chaos`, and with a fixed seed `make test`."""
