// What every page can do with JavaScript and does without: keys, copying, typed confirmation.
"use strict";
document.documentElement.classList.add("js");
(() => {
  const typing = (element) => element instanceof HTMLElement &&
    (element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName));
  const dialog = document.getElementById("keys");
  const showKeys = () => { if (dialog && !dialog.open) dialog.showModal(); };
  document.getElementById("keys-button")?.addEventListener("click", showKeys);

  let going = 0; // when "g" was pressed
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || dialog?.open) return;
    if (going && event.timeStamp - going < 1500) {
      going = 0;
      const place = document.querySelector(`.places a[data-key="${CSS.escape(event.key)}"]`);
      if (place) { event.preventDefault(); place.click(); }
      return;
    }
    if (event.key === "g") { going = event.timeStamp; return; }
    if (event.key === "?") { event.preventDefault(); showKeys(); return; }
    if (event.key === "/") {
      const field = document.querySelector("[data-search]");
      if (field) { event.preventDefault(); field.focus(); field.select(); }
    }
  });

  document.addEventListener("click", async (event) => {
    const button = event.target instanceof Element ? event.target.closest("button[data-copy]") : null;
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch { button.textContent = "Select it"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // The button of a typed confirmation works once the name is typed; the server looks again.
  const judge = (field) => {
    const button = field.form?.querySelector("button[type=submit]");
    if (button) button.disabled = field.value.trim() !== field.dataset.expected;
  };
  document.addEventListener("input", (event) => {
    if (event.target instanceof HTMLInputElement && event.target.dataset.expected) judge(event.target);
  });
  const judgeAll = (root) => root.querySelectorAll("input[data-expected]").forEach(judge);
  judgeAll(document);
  document.addEventListener("htmx:afterSwap", () => judgeAll(document));
  // One submission: a second click must not send an action again.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () =>
    document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent));
})();
