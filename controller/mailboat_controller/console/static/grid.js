// The fleet on a canvas: a cell a device, only those in sight are drawn. (Columns: grid_columns.py.)
"use strict";
(() => {
  const canvas = document.getElementById("grid");
  if (!canvas) return;
  const frame = document.getElementById("grid-frame");
  const said = document.getElementById("cell-said");
  const NAMES = ["unknown", "online", "offline", "in_progress", "failed", "revoked"]; // State
  const CALLING = [0, 2, 4], FAILED = 4; // unknown, offline, failed
  const PITCH_MIN = 4, PITCH_MAX = 22, PAD = 12, LABEL = 20;
  const RELOAD_MS = 10000, SAY_MS = 140;
  const context = canvas.getContext("2d", { alpha: false });

  let numbers = new Uint32Array(0), states = new Uint8Array(0), groups = [], head = {}, places = null;
  let pitch = 0, chosenPitch = 0, columns = 1, total = 0, width = 0, height = 0, ratio = 1;
  let selected = -1, dimmed = null, atlas = null, wanted = false;

  // ---- what it looks like ----
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const look = () => ({
    paper: css("--paper"), ink: css("--ink"), soft: css("--soft"), focus: css("--focus"),
    colours: [css("--unknown"), css("--cell-ok"), css("--calm"), css("--move"), css("--cell-bad"), css("--line-strong")],
  });

  // Each state is a shape: full, ring, dot, arrow, cross, dash.
  const glyph = (pen, state, size) => {
    const edge = size >= 7 ? Math.max(1, Math.round(size / 6)) : 1;
    const middle = size / 2;
    switch (NAMES[state]) {
      case "online": pen.fillRect(0, 0, size, size); break;
      case "offline": pen.lineWidth = edge; pen.strokeRect(edge / 2, edge / 2, size - edge, size - edge); break;
      case "unknown": {
        const dot = Math.max(1, Math.round(size / 2.6));
        const from = Math.round(middle - dot / 2);
        if (size < 8) { pen.fillRect(from, 0, dot, size); pen.fillRect(0, from, size, dot); }
        else { pen.beginPath(); pen.moveTo(middle, 0); pen.lineTo(size, middle); pen.lineTo(middle, size); pen.lineTo(0, middle); pen.closePath(); pen.lineWidth = edge; pen.stroke(); pen.fillRect(from, from, dot, dot); }
        break;
      }
      case "in_progress": pen.beginPath(); pen.moveTo(0, 0); pen.lineTo(size, middle); pen.lineTo(0, size); pen.closePath(); pen.fill(); break;
      case "failed":
        pen.fillRect(0, 0, size, size);
        if (size >= 8) {
          pen.strokeStyle = look().paper; pen.lineWidth = Math.max(1.4, size / 7);
          const inset = size * 0.27;
          pen.beginPath(); pen.moveTo(inset, inset); pen.lineTo(size - inset, size - inset);
          pen.moveTo(size - inset, inset); pen.lineTo(inset, size - inset); pen.stroke();
        }
        break;
      default: pen.fillRect(0, Math.round(middle - edge / 2), size, edge);
    }
  };
  const draughts = () => { // the shapes as pixels, once for a size and a theme
    const styles = look(), gap = pitch >= 9 ? 2 : 1;
    const made = { styles, size: 0, cells: [] };
    NAMES.forEach((_, state) => {
      // Among tiny cells one that failed is larger than its place: it must not be overlooked.
      const large = state === FAILED && pitch < 9;
      const size = Math.round((large ? pitch + 1 : pitch - gap) * ratio);
      const scratch = document.createElement("canvas");
      scratch.width = scratch.height = size;
      const pen = scratch.getContext("2d", { alpha: false });
      pen.fillStyle = styles.paper; pen.fillRect(0, 0, size, size);
      pen.globalAlpha = dimmed !== null && dimmed !== state ? 0.16 : 1;
      pen.fillStyle = pen.strokeStyle = styles.colours[state];
      glyph(pen, state, size);
      made.cells.push({ size, pixels: new Uint32Array(pen.getImageData(0, 0, size, size).data.buffer) });
    });
    const scratch = document.createElement("canvas"); scratch.width = scratch.height = 1;
    const pen = scratch.getContext("2d", { alpha: false });
    pen.fillStyle = styles.paper; pen.fillRect(0, 0, 1, 1);
    made.ground = new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
    return made;
  };

  // ---- where a cell is ----
  const labelled = () => groups.length > 1 || (groups[0] && groups[0].name);
  const arrange = () => {
    ratio = Math.min(3, window.devicePixelRatio || 1);
    width = frame.clientWidth;
    const room = Math.max(180, Math.min(window.innerHeight * 0.62, 736));
    const tall = (size) => {
      const across = Math.max(1, Math.floor((width - 2 * PAD) / size));
      return groups.reduce((sum, group) => sum + (labelled() ? LABEL + 4 : 0) + Math.ceil(group.count / across) * size, 2 * PAD);
    };
    pitch = chosenPitch;
    if (!pitch) { pitch = PITCH_MAX; while (pitch > PITCH_MIN && tall(pitch) > room) pitch -= 1; }
    columns = Math.max(1, Math.floor((width - 2 * PAD) / pitch));
    let y = PAD;
    for (const group of groups) {
      group.label = y; if (labelled()) y += LABEL;
      group.top = y; group.rows = Math.ceil(group.count / columns);
      y += group.rows * pitch + (labelled() ? 4 : 0);
    }
    total = y + PAD;
    height = Math.min(Math.max(total, 120), Math.round(room));
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    spacer.style.height = `${Math.max(0, total - height)}px`;
    atlas = null;
    draw();
  };
  const spacer = document.createElement("div");
  canvas.after(spacer);
  const groupOf = (index) => {
    let low = 0, high = groups.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (groups[middle].start <= index) low = middle; else high = middle - 1; }
    return low;
  };
  const placeOf = (index) => {
    const group = groups[groupOf(index)], at = index - group.start;
    return { x: PAD + (at % columns) * pitch, y: group.top + Math.floor(at / columns) * pitch };
  };
  const indexAt = (x, y) => {
    const column = Math.floor((x - PAD) / pitch);
    if (column < 0 || column >= columns) return -1;
    const group = groups.find((each) => y >= each.top && y < each.top + each.rows * pitch);
    if (!group) return -1;
    const at = Math.floor((y - group.top) / pitch) * columns + column;
    return at < group.count ? group.start + at : -1;
  };

  // ---- painting ----
  const draw = () => { if (!wanted) { wanted = true; requestAnimationFrame(paint); } };
  const paint = () => {
    wanted = false;
    if (!width || !pitch) return;
    const began = performance.now();
    atlas ??= draughts();
    const top = frame.scrollTop, image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer), across = canvas.width, down = canvas.height;
    pixels.fill(atlas.ground);
    const { cells } = atlas, failed = [];
    const stamp = (cell, x, y) => {
      const { size, pixels: source } = cell;
      for (let line = 0; line < size; line += 1) {
        const into = y + line;
        if (into < 0 || into >= down) continue;
        let to = into * across + x, at = line * size;
        for (let n = 0; n < size; n += 1) pixels[to++] = source[at++];
      }
    };
    for (const group of groups) {
      if (group.top + group.rows * pitch < top || group.label > top + height) continue;
      const first = Math.max(0, Math.floor((top - group.top) / pitch));
      const last = Math.min(group.rows - 1, Math.ceil((top + height - group.top) / pitch));
      for (let row = first; row <= last; row += 1) {
        const y = Math.round((group.top + row * pitch - top) * ratio);
        const from = group.start + row * columns, until = Math.min(from + columns, group.start + group.count);
        for (let index = from; index < until; index += 1) {
          const x = Math.round((PAD + (index - from) * pitch) * ratio);
          if (states[index] === FAILED) failed.push(x, y);
          else stamp(cells[states[index]] ?? cells[0], x, y);
        }
      }
    }
    const over = pitch < 9 ? Math.round(ratio) : 0;
    for (let n = 0; n < failed.length; n += 2) stamp(cells[FAILED], failed[n] - over, failed[n + 1] - over);
    context.putImageData(image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (labelled()) {
      context.font = `600 12px ${css("--sans") || "sans-serif"}`; context.textBaseline = "middle";
      for (const group of groups) {
        const y = group.label - top;
        if (y < -LABEL || y > height) continue;
        context.fillStyle = atlas.styles.ink;
        const name = (group.name === "-" ? "no site" : group.name.replace("_", " ")).slice(0, 80);
        context.fillText(name, PAD, y + LABEL / 2 - 1);
        const at = PAD + context.measureText(name).width + 8;
        context.fillStyle = atlas.styles.soft;
        context.fillText(group.count.toLocaleString("en").replaceAll(",", "\u202f"), at, y + LABEL / 2 - 1);
      }
    }
    if (selected >= 0 && selected < numbers.length) {
      const { x, y } = placeOf(selected), size = pitch - (pitch >= 9 ? 2 : 1);
      context.lineWidth = 2; context.strokeStyle = atlas.styles.paper; context.strokeRect(x - 1, y - top - 1, size + 2, size + 2);
      context.strokeStyle = atlas.styles.ink; context.strokeRect(x - 2.5, y - top - 2.5, size + 5, size + 5);
    }
    canvas.dataset.paintMs = (performance.now() - began).toFixed(1);
    canvas.dataset.painted = String(Number(canvas.dataset.painted || 0) + 1);
  };

  // ---- what is behind it ----
  const load = async () => {
    const began = performance.now();
    let answer;
    try {
      answer = await fetch(canvas.dataset.columns, { cache: "no-cache", headers: { "Mailboat-By-Itself": "1" } });
    } catch { return; } // live.js says that the controller is away, and it is asked again
    if (!answer.ok) return;
    const bytes = await answer.arrayBuffer();
    const fetched = performance.now();
    const end = new Uint8Array(bytes).indexOf(10);
    head = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 0, end)));
    const count = head.groups.reduce((sum, [, n]) => sum + n, 0);
    numbers = new Uint32Array(bytes.slice(end + 1, end + 1 + 4 * count));
    states = new Uint8Array(bytes.slice(end + 1 + 4 * count, end + 1 + 5 * count));
    const number = selected >= 0 ? Number(canvas.dataset.number) : -1;
    let start = 0;
    groups = head.groups.map(([name, n]) => { const group = { name, start, count: n }; start += n; return group; });
    places = null;
    if (number >= 0) selected = place(number) ?? -1;
    arrange();
    count_();
    requestAnimationFrame(() => {
      canvas.dataset.fetchMs = (fetched - began).toFixed(1);
      canvas.dataset.readyMs = (performance.now() - fetched).toFixed(1);
      canvas.dataset.shownMs ??= performance.now().toFixed(1); // since somebody asked for the page
      canvas.dataset.devices = String(count);
      canvas.dataset.revision = String(head.revision);
    });
  };
  const place = (number) => {
    if (!places) { places = new Map(); numbers.forEach((each, index) => places.set(each, index)); }
    return places.get(number);
  };
  const count_ = () => {
    const found = new Array(NAMES.length).fill(0);
    for (const state of states) found[state] += 1;
    NAMES.forEach((name, state) => {
      const shown = document.querySelector(`[data-count="${name}"]`);
      if (shown) shown.textContent = found[state].toLocaleString("en").replaceAll(",", "\u202f");
    });
    const sum = states.length.toLocaleString("en").replaceAll(",", "\u202f");
    for (const id of ["fleet-sum", "fleet-chosen"]) { const shown = document.getElementById(id); if (shown) shown.textContent = sum; }
  };
  let reloaded = performance.now(), reloading = 0;
  const reload = (soon) => {
    clearTimeout(reloading);
    const wait = soon ? 0 : Math.max(0, RELOAD_MS - (performance.now() - reloaded));
    reloading = setTimeout(() => { reloaded = performance.now(); load(); }, wait);
  };
  const filtered = new URL(canvas.dataset.columns, location.href).searchParams;
  document.addEventListener("mailboat:fleet", (event) => {
    const told = event.detail, age = document.getElementById("fleet-age");
    if (age) age.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    if (told.revision === head.revision) return;
    if (!told.states || told.shape !== head.shape || told.since > head.revision) { reload(!told.states); return; }
    head.revision = told.revision;
    for (const [number, state] of told.states) { const at = place(number); if (at !== undefined) states[at] = state; }
    count_(); draw();
    if (selected >= 0 && told.states.some(([number]) => number === numbers[selected])) say(true);
    // Who belongs to the selection or the group may be others now.
    if (filtered.get("selector") || filtered.get("group") === "state") reload(false);
  });
  document.addEventListener("mailboat:changed", (event) => { if (event.detail.topics === null) reload(true); });

  // ---- one cell, in words ----
  let saying = 0, asking = null;
  const show = (index, aloud) => { said.setAttribute("aria-live", aloud ? "polite" : "off"); clearTimeout(saying); saying = setTimeout(() => tell(index), SAY_MS); };
  const say = (aloud) => show(selected, aloud);
  const tell = async (index) => {
    if (index < 0 || index >= numbers.length) return;
    asking?.abort(); asking = new AbortController();
    try {
      const answer = await fetch(`${canvas.dataset.cell}${numbers[index]}`, { signal: asking.signal, headers: { "Mailboat-By-Itself": "1" } });
      if (!answer.ok) return;
      const cell = await answer.json();
      const link = document.createElement("a"); link.href = cell.href; link.textContent = cell.device;
      const state = document.createElement("b"); state.textContent = cell.state.replace("_", " ");
      said.replaceChildren(link, " is ", state, cell.because ? ` (${cell.because})` : "",
        ` · class ${cell.hardware_class} · ${cell.site === "-" ? "no site" : `site ${cell.site}`} · ${cell.running ? `runs ${cell.running}` : "runs nothing"} · heard of ${cell.seen}`);
    } catch { /* another cell was asked for, or the controller is away */ }
  };

  // ---- keyboard and pointer ----
  const choose = (index) => {
    if (!numbers.length) return;
    selected = Math.max(0, Math.min(numbers.length - 1, index));
    canvas.dataset.number = String(numbers[selected]);
    const { y } = placeOf(selected);
    if (y - LABEL < frame.scrollTop) frame.scrollTop = y - LABEL - 4;
    else if (y + pitch > frame.scrollTop + height) frame.scrollTop = y + pitch - height + 6;
    draw(); say(true);
  };
  const upDown = (step) => {
    const at = groupOf(selected), group = groups[at], offset = selected - group.start, to = offset + step * columns;
    if (to >= 0 && to < group.count) return group.start + to;
    const column = offset % columns;
    if (step > 0 && Math.floor(offset / columns) < group.rows - 1) return group.start + group.count - 1;
    const next = groups[at + step];
    if (!next) return selected;
    if (step > 0) return next.start + Math.min(column, next.count - 1);
    return next.start + Math.min((next.rows - 1) * columns + column, next.count - 1);
  };
  const calling = (step) => {
    for (let n = 1, count = states.length; n <= count; n += 1) {
      const index = ((selected + step * n) % count + count) % count;
      if (CALLING.includes(states[index])) return index;
    }
    return selected;
  };
  const zoom = (step) => { chosenPitch = Math.max(PITCH_MIN, Math.min(PITCH_MAX * 2, pitch + step * Math.max(1, Math.round(pitch / 4)))); arrange(); if (selected >= 0) choose(selected); };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !numbers.length) return;
    const at = selected < 0 ? 0 : groupOf(selected);
    const moves = {
      ArrowRight: () => choose(selected + 1), ArrowLeft: () => choose(selected - 1),
      ArrowDown: () => choose(selected < 0 ? 0 : upDown(1)), ArrowUp: () => choose(selected < 0 ? 0 : upDown(-1)),
      Home: () => choose(groups[at].start), End: () => choose(groups[at].start + groups[at].count - 1),
      PageDown: () => choose(groups[Math.min(groups.length - 1, at + 1)].start), PageUp: () => choose(groups[Math.max(0, at - 1)].start),
      n: () => choose(calling(1)), p: () => choose(calling(-1)), "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1),
      Enter: async () => { if (selected < 0) return; await tell(selected); said.querySelector("a")?.click(); },
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault(); event.stopPropagation(); move();
  });
  canvas.addEventListener("focus", () => { if (selected < 0 && numbers.length && canvas.matches(":focus-visible")) choose(0); });
  const under = (event) => { const box = canvas.getBoundingClientRect(); return indexAt(event.clientX - box.left, event.clientY - box.top + frame.scrollTop); };
  canvas.addEventListener("pointermove", (event) => { const index = under(event); if (index >= 0) show(index, false); });
  canvas.addEventListener("pointerleave", () => { if (selected >= 0) show(selected, false); });
  canvas.addEventListener("click", (event) => { const index = under(event); if (index >= 0) choose(index); });
  canvas.addEventListener("dblclick", () => { said.querySelector("a")?.click(); });
  document.getElementById("larger").addEventListener("click", () => zoom(1));
  document.getElementById("smaller").addEventListener("click", () => zoom(-1));
  document.querySelectorAll(".state-toggle").forEach((button) => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll(".state-toggle").forEach((each) => each.setAttribute("aria-pressed", "false"));
    button.setAttribute("aria-pressed", String(on));
    dimmed = on ? NAMES.indexOf(button.dataset.state) : null;
    atlas = null; draw();
  }));
  document.getElementById("group").addEventListener("change", (event) => event.target.form.requestSubmit());
  frame.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(() => { if (frame.clientWidth !== width) arrange(); }).observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { atlas = null; draw(); });
  load();
})();
