"""The health address: three paths, plain HTTP, and nothing else."""

from __future__ import annotations

import httpx

from trustfed.runtime.health import open_health
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import address_of, listen_tcp


async def test_ready_says_what_is_missing() -> None:
    missing = ["doors"]
    registry = Registry()
    registry.gauge("toy_things", "things").set(3)
    listener = listen_tcp("127.0.0.1:0")
    address = address_of(listener)
    door = await open_health(listener, lambda: missing, registry)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as anybody:
            answer = await anybody.get("/ready")
            assert (answer.status_code, answer.json()) == (503, {"ready": False, "missing": ["doors"]})
            missing.clear()
            answer = await anybody.get("/ready")
            assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": []})
            assert (await anybody.get("/live")).json() == {"live": True}
            assert "trustfed_toy_things 3" in (await anybody.get("/metrics")).text
            assert (await anybody.get("/status")).status_code == 404
            assert (await anybody.post("/ready")).status_code in (404, 405)
    finally:
        await door.close()
