"""SDS (Envoy's Secret Discovery Service, API v3) on the workload socket: identity and per-domain validation for Envoy.

Little of it is loaded before the first Envoy calls: a node without one pays nothing.
"""
