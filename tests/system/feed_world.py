"""Two clusters that trust each other, one service of which the other imports: what a feed has to hand over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.system.stack import Cluster, Stack

EAST, WEST = "prod-eu-west", "prod-us-west"
HOSTS = ("payments.ns.svc.cluster.local", "orders.ns.svc.cluster.local")
ADDRESS = "198.51.100.7"
CHECKOUT = f"spiffe://{WEST}/ns/ns/sa/checkout"


def answers(host: str) -> str:
    """Who answers a host in the exporting cluster."""
    return f"spiffe://{EAST}/ns/ns/sa/{host.partition('.')[0]}"


def routes(stack: Stack) -> Cluster:
    """The importing cluster; it imports the first host, the second is offered to it."""
    with ThreadPoolExecutor(2) as both:
        west, east = both.map(stack.cluster, (WEST, EAST))
    stack.grant(WEST, EAST)
    stack.grant(EAST, WEST)
    east.admin.ask("PUT", "/mesh/gateways/gw-1", {"item": {"address": ADDRESS, "port": 15443, "network": EAST}})
    for host in HOSTS:
        export = {
            "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
            "answers": [answers(host)],
            "callers": [CHECKOUT],
            "workload": {"app": host.partition(".")[0]},
        }
        east.admin.ask("PUT", f"/mesh/exports/{host}", {"item": export})
    wants(west, HOSTS[0])
    return west


def wants(west: Cluster, host: str) -> None:
    """Import a host that exists nowhere in this cluster."""
    order = {"item": {"exporter": EAST, "host": host}, "local": {"sidecars": "absent"}}
    west.admin.ask("PUT", f"/mesh/imports/{host.partition('.')[0]}", order)
