// What a page gains with JavaScript: news as they happen, and times in the reader's own zone. Every page is whole without it.
"use strict";

(() => {
  const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

  function span(ms) {
    let left = Math.floor(Math.abs(ms) / 1000);
    const parts = [];
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count) parts.push(`${count} ${unit}`);
      else if (parts.length) break;
    }
    return parts.slice(0, 2).join(" ") || "0 s";
  }

  // The server's clock is what ages are counted by; a reader's own may be wrong.
  const served = Date.parse(document.querySelector("meta[name=now]")?.content || "") || Date.now();
  const loaded = performance.now();
  let offset = served - loaded;
  const now = () => performance.now() + offset;

  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      time.title = `${zone.format(moment)} where you are; ${time.dateTime}`;
      if (time.dataset.age || moment.getTimezoneOffset() === 0 || time.querySelector(".local")) continue;
      const local = document.createElement("span");
      local.className = "local";
      const sameDay = moment.getDate() === moment.getUTCDate();
      local.textContent = ` (${sameDay ? "" : `${day.format(moment)}, `}${clock.format(moment)})`;
      time.append(local);
    }
  }

  function ages() {
    for (const time of document.querySelectorAll("time[data-age]")) {
      const distance = now() - Number(time.dataset.age);
      const said = distance >= 0 ? `${span(distance)} ago` : `in ${span(distance)}`;
      time.textContent = Math.abs(distance) < 1000 ? "now" : said;
    }
  }

  // What the server sent, without what this script and the time change of it: only other news is news.
  const sent = new WeakMap();
  const plain = (part) => part.innerHTML.replace(/(<time[^>]*\bdata-age=[^>]*>)[^<]*/g, "$1");
  for (const part of document.querySelectorAll("[id][data-live]")) sent.set(part, plain(part));

  localise(document);
  setInterval(ages, 5000);

  const menu = document.querySelector("details.menu");
  if (menu && matchMedia("(max-width: 60rem)").matches) menu.open = false;

  // Control+/ goes to the search. Not "/" alone: one character by itself is somebody's speech input (WCAG 2.2, 2.1.4).
  document.addEventListener("keydown", (event) => {
    const search = document.getElementById("search");
    if (event.key === "/" && (event.ctrlKey || event.metaKey) && search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  // Live: a marked part (`<section id=… data-live="fleet standing:NAME">`) is fetched again when one of its names has news.
  const address = document.body.dataset.events;
  const names = () => new Set([...document.querySelectorAll("[id][data-live]")].flatMap((part) => part.dataset.live.split(/\s+/)));
  if (!address || !names().size || !window.EventSource) return;

  const PAUSE = 1000;
  const changed = new Set();
  let last = 0, waiting = 0, fetching = false;

  function touched(part) {
    return part.dataset.live.split(/\s+/).some((name) => changed.has(name) || changed.has("all"));
  }

  function kept(part) {
    const focus = document.activeElement;
    return focus && part.contains(focus) && focus.matches("input, textarea, select");
  }

  async function renew() {
    if (fetching || document.hidden) return;
    fetching = true;
    last = performance.now();
    const parts = [...document.querySelectorAll("[id][data-live]")].filter((part) => touched(part) && !kept(part));
    changed.clear();
    try {
      if (!parts.length) return;
      const answer = await fetch(location.href, { headers: { "X-Fragment": "1" }, credentials: "same-origin", redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) { document.body.classList.add("cut"); return; }
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const time = Date.parse(page.querySelector("meta[name=now]")?.content || "");
      if (time) offset = time - performance.now();
      for (const part of [...parts, ...document.querySelectorAll(".page-state")]) {
        const fresh = part.id ? page.getElementById(part.id) : page.querySelector(".page-state");
        const news = fresh && plain(fresh);
        if (!fresh || (part.id && news === sent.get(part))) continue;
        const open = new Set([...part.querySelectorAll("details[id][open]")].map((one) => one.id));
        const focus = part.contains(document.activeElement) ? document.activeElement.id || document.activeElement.getAttribute("href") : "";
        const renewed = document.importNode(fresh, true);
        if (part.id) sent.set(renewed, news);
        for (const one of renewed.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
        localise(renewed);
        part.replaceWith(renewed);
        if (renewed.id) renewed.classList.add("changed");
        if (focus) {
          const again = document.getElementById(focus) || [...renewed.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focus);
          if (again) again.focus({ preventScroll: true });
        }
      }
      ages();
    } catch {
      // The next event tries again; the age on the page says how old it is.
    } finally {
      fetching = false;
      if (changed.size) soon();
    }
  }

  function soon() {
    if (waiting) return;
    waiting = setTimeout(() => { waiting = 0; renew(); }, Math.max(150, PAUSE - (performance.now() - last)));
  }

  // `seen` is what the page knew when it was made: what came since, and before this stream, is told at once.
  const source = new EventSource(`${address}?names=${encodeURIComponent([...names()].join(" "))}&seen=${document.body.dataset.seen}`);
  source.addEventListener("change", (event) => {
    for (const name of event.data.split(" ")) changed.add(name);
    soon();
  });
  source.addEventListener("end", () => { source.close(); document.body.classList.add("cut"); });
  source.addEventListener("open", () => document.body.classList.remove("cut"));
  source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) document.body.classList.add("cut"); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && changed.size) soon(); });
  addEventListener("pagehide", () => source.close());
})();
