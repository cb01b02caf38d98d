"""Simulated clusters: real to the hub, with nodes and workloads that only their ledgers know."""
