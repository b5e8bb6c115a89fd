// The forms of a rollout are asked for again once it has moved on, unless one is being filled in.
"use strict";
(() => {
  document.addEventListener("htmx:afterSettle", () => {
    const orders = document.getElementById("orders");
    const shown = document.querySelector("#rollout [data-phase]");
    if (!orders || !shown || orders.dataset.phase === shown.dataset.phase) return;
    if (!orders.querySelector("details[open]")) htmx.trigger(orders, "mb-refresh");
  });
})();
