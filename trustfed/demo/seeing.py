"""Steps on the dashboard: it shows a fleet of simulated clusters, and what is killed moves its figures."""

from __future__ import annotations

import time
from pathlib import Path

from trustfed.demo.browser import Browser, figures, login_link, row, words
from trustfed.demo.door import ask
from trustfed.demo.house import NODE, House, fleet_process
from trustfed.demo.outage import kill
from trustfed.demo.processes import Process
from trustfed.demo.screen import Screen, Step, milliseconds

FLEET_SECONDS, MOVE_SECONDS = 60.0, 40.0
_PAUSE = 0.1
FAULTS = {
    "a dead cluster": ("?show=all", "1 cluster away"),
    "a late rotation": ("alarms", "burn_slow"),
    "a rollover held up by one node": ("rollovers", "node node-"),
    "a serial nobody issued": ("alarms", "unknown_serial"),
    "a silent node": ("alarms", "node_silent"),
    "a wrong clock": ("alarms", "clock_offset"),
    "a setting that will fail": ("lint", "short-node-svid"),
    "a withheld figure": ("?show=all", "withheld"),
}
"""What is wrong with the simulated clusters, the page that says so, and in which words."""


class Seeing:
    """`start` it early, so that it is there when `look` wants to see it."""

    def __init__(self, place: House, screen: Screen, root: Path, fleet: int) -> None:
        self._house, self._screen, self._root, self._count = place, screen, root, fleet
        self._browser = Browser(root)
        self._began = 0.0

    def start(self) -> None:
        """Start the fleet's process, if there is to be a fleet."""
        if self._count:
            self._began = time.time()
            fleet_process(self._house, self._count).start()

    def look(self) -> None:
        """The dashboard answers whoever has a link, with the figures of the whole fleet."""
        with self._screen.step(f"the dashboard shows {self._fleet()} to whoever has a login link") as step:
            link = login_link(self._house.hub.admin, "demo")
            self._browser.log_in(link)
            began = time.time()
            page = self._browser.read(self._page())
            step.say(f"logged in by a link that works once; the fleet's page in {milliseconds(began)}, {_size(page)}")
            page = step.wait("the fleet's figures", self._whole, FLEET_SECONDS, _PAUSE)
            shown = figures(page)
            if self._count:
                step.say(f"{self._count} simulated clusters enrolled and told 30 days, at most {self._since()} s ago")
            for label in ("Clusters", "Pages open", "Rotations failed, 30 d", "Leaf rotations on time"):
                step.say(f"{label.lower()}: {shown.get(label, '?')}")
            if self._count >= len(FAULTS):
                step.wait("the faults of the simulated ones", lambda: not self._unseen() or None, FLEET_SECONDS, _PAUSE)
                step.say(f"found among them: {', '.join(FAULTS)}")

    def move(self) -> None:
        """An agent and a cluster are killed: each is seen, and seen again when it is back."""
        west, central = self._house.clusters
        agent, cluster = self._process(f"agent-{west.name}"), self._process(f"cluster-{central.name}")
        with self._screen.step("an agent and a cluster are killed, and the dashboard says so within seconds") as step:
            step.wait(f"{NODE} to be heard", lambda: self._heard(west.name), MOVE_SECONDS, _PAUSE)
            before = figures(self._browser.read(self._page())).get("Pages open", "?")
            try:
                began = time.time()
                kill(agent)
                kill(cluster)
                step.wait(f"{central.name} to be away", lambda: self._away(central.name), MOVE_SECONDS, _PAUSE)
                step.say(f"cluster {central.name} is away {milliseconds(began)} after it was killed")
                again = time.time()
                cluster.start()
                step.wait(f"{NODE} to be silent", lambda: self._silent(west.name), MOVE_SECONDS, _PAUSE)
                shown = figures(self._browser.read(self._page()))
                step.say(f"{NODE} of {west.name} is silent {milliseconds(began)} after its agent was killed")
                step.say(f"pages open: {before} before, {shown.get('Pages open', '?')} meanwhile")
                began = time.time()
            finally:
                for process in (agent, cluster):
                    if process.look() is None:
                        process.start()
            step.wait(f"{NODE} to be heard again", lambda: self._heard(west.name), MOVE_SECONDS, _PAUSE)
            step.say(f"it is heard again {milliseconds(began)} after its agent's start")
            step.wait(f"{central.name} to be back", lambda: self._live(central.name), MOVE_SECONDS, _PAUSE)
            step.say(f"{central.name} is back, at most {milliseconds(again)} after its start")
            self._connected(step)

    def _connected(self, step: Step) -> None:
        """What follows finds everything as it was."""
        for cluster in self._house.clusters:
            admin = cluster.admin
            step.wait(
                f"cluster {cluster.name} at the hub",
                lambda at=admin: ask(at, "GET", "/status")["hub"]["connected"] or None,  # type: ignore[misc]
                MOVE_SECONDS,
            )

    def _whole(self) -> str | None:
        page = self._browser.read(self._page())
        told = page.count(">simulated<")
        names = all(row(page, cluster.name) for cluster in self._house.clusters)
        most = min(self._count, 40)  # one page of the table lists no more than 50
        return page if names and told >= most and "never heard" not in figures(page).get("Clusters", "") else None

    def _unseen(self) -> list[str]:
        """The faults that no page shows yet."""
        pages = {path: words(self._browser.read(f"{self._house.dashboard}{path}")) for path, _ in FAULTS.values()}
        return [name for name, (path, sign) in FAULTS.items() if sign not in pages[path]]

    def _away(self, name: str) -> str | None:
        found = row(self._browser.read(self._page()), name)
        return found if "away" in found.split() else None

    def _live(self, name: str) -> str | None:
        found = row(self._browser.read(self._page()), name)
        return found if found and "away" not in found.split() else None

    def _silent(self, name: str) -> bool | None:
        return f"{NODE} silent since" in self._of(name) or None

    def _heard(self, name: str) -> bool | None:
        return f"{NODE} silent since" not in self._of(name) or None

    def _of(self, name: str) -> str:
        return words(self._browser.read(f"{self._house.dashboard}domain?name={name}"))

    def _page(self) -> str:
        return f"{self._house.dashboard}?show=all"

    def _fleet(self) -> str:
        return f"a fleet of {self._count + 2} clusters" if self._count else "both clusters"

    def _since(self) -> str:
        return f"{time.time() - self._began:.0f}"

    def _process(self, name: str) -> Process:
        return next(process for process in self._house.processes if process.name == name)


def _size(page: str) -> str:
    return f"{len(page.encode()) / 1024:.0f} KiB"
