// A part of a page that is asked for again keeps the place of whoever is in it: the focus stays on
// the same link or button, and a table that was scrolled sideways stays there.
"use strict";
(() => {
  const FOCUSABLE = "a[href], button, summary, input, select, [tabindex]";
  let held = null;
  const key = (element) => [element.tagName, element.id, element.getAttribute("href"), element.getAttribute("aria-label"), element.textContent.trim().slice(0, 80)].join("|");
  const alike = (part, wanted) => [...part.querySelectorAll(FOCUSABLE)].filter((each) => key(each) === wanted);
  const scrolled = (part) => [...part.querySelectorAll(".table-wrap, pre")];
  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    const focus = part.contains(document.activeElement) ? document.activeElement : null;
    held = {
      id: part.id,
      focus: focus && { key: key(focus), nth: alike(part, key(focus)).indexOf(focus) },
      scrolls: scrolled(part).map((each) => [each.scrollLeft, each.scrollTop]),
    };
  });
  document.addEventListener("htmx:afterSettle", () => {
    const part = held && document.getElementById(held.id);
    if (!part) return;
    scrolled(part).forEach((each, n) => { [each.scrollLeft, each.scrollTop] = held.scrolls[n] ?? [0, 0]; });
    if (held.focus && document.activeElement === document.body) {
      const found = alike(part, held.focus.key);
      const next = found[held.focus.nth] ?? found[0];
      // What had the focus is gone: begin at the part, not at the top of the page.
      if (!next) part.tabIndex = -1;
      (next ?? part).focus({ preventScroll: true });
    }
    held = null;
  });
})();
