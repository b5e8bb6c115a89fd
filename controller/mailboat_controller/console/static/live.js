// Keeps a page up to date: one stream of what changed, and who shows it asks again. (See live.py.)
"use strict";
(() => {
  const url = document.body.dataset.liveUrl;
  if (!url || !window.EventSource) return;
  const sign = document.getElementById("link");
  const RETRY_MS = [1000, 2000, 4000, 8000, 15000, 30000];
  const SILENT_MS = 35000; // three heartbeats: a connection may die without a word
  const REST_MS = 3000; // a part is not asked for more often
  let source = null, attempts = 0, first = true, awaySince = null, lastWord = performance.now(), retryTimer = 0;

  const clock = (instant) => instant.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const away = (why) => {
    awaySince ??= new Date();
    if (sign) { sign.hidden = false; sign.textContent = `${why} since ${clock(awaySince)}`; }
    document.documentElement.classList.add("stale");
  };
  const back = () => {
    attempts = 0; lastWord = performance.now();
    if (!awaySince) return;
    awaySince = null;
    if (sign) { sign.hidden = true; sign.textContent = ""; }
    document.documentElement.classList.remove("stale");
    refresh(null); // whatever changed meanwhile
  };

  const asked = new Map(); // element id -> when
  const refresh = (topics) => {
    document.querySelectorAll("[data-live]").forEach((element) => {
      const wanted = element.dataset.live.split(" ");
      if (topics && !wanted.some((topic) => topics.includes(topic))) return;
      const since = performance.now() - (asked.get(element.id) ?? -REST_MS);
      clearTimeout(element.dataset.timer);
      element.dataset.timer = setTimeout(() => ask(element.id), Math.max(0, REST_MS - since));
    });
    document.dispatchEvent(new CustomEvent("mailboat:changed", { detail: { topics } }));
  };
  const ask = (id) => {
    const element = document.getElementById(id);
    // Not under somebody's fingers: an open form, or a selection, would be lost.
    if (!element || document.hidden) return;
    if (element.querySelector("details[open]") || busy(element)) {
      element.dataset.timer = setTimeout(() => ask(id), REST_MS);
      return;
    }
    asked.set(id, performance.now());
    htmx.trigger(element, "mb-refresh");
  };
  const busy = (element) => {
    const selection = document.getSelection();
    return (selection && !selection.isCollapsed && element.contains(selection.anchorNode)) ||
      (element.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName));
  };

  const open = () => {
    const address = new URL(url, location.href);
    // What changed between the making of this page and now; after a break, everything is asked anew.
    if (first) address.searchParams.set("since", document.body.dataset.madeMs);
    first = false;
    source = new EventSource(address);
    source.addEventListener("hello", back);
    source.addEventListener("beat", back);
    source.addEventListener("changed", (event) => { back(); refresh(JSON.parse(event.data).topics); });
    source.addEventListener("fleet", (event) => {
      back();
      document.dispatchEvent(new CustomEvent("mailboat:fleet", { detail: JSON.parse(event.data) }));
    });
    source.addEventListener("again", () => { source?.close(); setTimeout(open, Math.random() * 1000); });
    source.addEventListener("bye", (event) => { again(JSON.parse(event.data).because); });
    source.onerror = () => again("Controller away");
  };
  // Is it the controller that is gone, or the session, or are there too many pages?
  const ended = async () => {
    try {
      const answer = await fetch(document.body.dataset.sessionUrl, { headers: { "Mailboat-By-Itself": "1" } });
      if (answer.headers.get("Mailboat-Error-Code") === "E-LIVE-CLIENTS") away("Not kept up to date, too many pages are open:");
      if (answer.status !== 401) return;
    } catch { return; }
    clearTimeout(retryTimer);
    const link = document.createElement("a");
    link.href = location.href; link.textContent = "log in again";
    sign?.replaceChildren("Logged out: ", link);
  };
  // Ours, not the browser's: with backoff and jitter, and it says since when.
  const again = (why) => {
    source?.close(); source = null;
    away(why);
    ended();
    clearTimeout(retryTimer);
    const wait = RETRY_MS[Math.min(attempts, RETRY_MS.length - 1)];
    attempts += 1;
    retryTimer = setTimeout(open, wait / 2 + Math.random() * wait / 2);
  };
  setInterval(() => {
    if (source && performance.now() - lastWord > SILENT_MS) again("Controller away");
  }, 5000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    if (!source) { clearTimeout(retryTimer); open(); } else refresh(null);
  });
  window.addEventListener("pagehide", () => { source?.close(); source = null; clearTimeout(retryTimer); });
  window.addEventListener("pageshow", (event) => { if (event.persisted && !source) open(); });
  open();
})();
