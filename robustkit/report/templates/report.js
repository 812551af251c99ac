"use strict";
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);

  let shown = null;
  const show = (point) => {
    if (shown) shown.classList.remove("at");
    shown = point;
    tip.hidden = !point;
    if (!point) return;
    point.classList.add("at");
    tip.textContent = point.getAttribute("aria-label");
    const box = point.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 8), width - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 10;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 0 ? above : box.bottom + 10) + scrollY}px`;
  };

  // A chart is one stop of the Tab key; arrow keys walk its points: left and right along a curve, up and down across.
  const step = (points, from, column, row) => {
    const c = +from.dataset.c, r = +from.dataset.r;
    const ahead = points.filter((p) => column
      ? +p.dataset.r === r && Math.sign(p.dataset.c - c) === column
      : +p.dataset.c === c && Math.sign(p.dataset.r - r) === row);
    const far = (p) => Math.abs(p.dataset.c - c) + Math.abs(p.dataset.r - r);
    return ahead.sort((a, b) => far(a) - far(b))[0];
  };
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  for (const svg of document.querySelectorAll("svg.plot")) {
    const title = svg.querySelector("title");
    svg.setAttribute("aria-label", title.textContent);
    svg.removeAttribute("aria-labelledby");
    title.remove(); // else it covers the points' own tooltips
    const points = [...svg.querySelectorAll(".pt")];
    if (!points.length) continue;
    let current = points[0];
    current.tabIndex = 0;
    svg.tabIndex = -1; // Chromium makes an svg with focus listeners a stop of its own
    svg.addEventListener("focusin", (event) => {
      if (event.target === svg) return;
      current.tabIndex = -1;
      current = event.target;
      current.tabIndex = 0;
      show(current);
    });
    svg.addEventListener("focusout", () => show(null));
    svg.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (event.key === "Escape") return show(null);
      if (!move) return;
      event.preventDefault();
      const next = step(points, current, move[0], move[1]);
      if (next) next.focus();
    });
    svg.addEventListener("pointermove", (event) => {
      let best = null, least = 24 * 24;
      for (const point of points) {
        const box = point.getBoundingClientRect();
        const dx = box.left + box.width / 2 - event.clientX, dy = box.top + box.height / 2 - event.clientY;
        if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = point; }
      }
      if (best !== shown) show(best);
    });
    svg.addEventListener("pointerleave", () => show(null));
  }

  for (const chooser of document.querySelectorAll(".chooser")) {
    const choices = [...chooser.querySelectorAll(".choice")];
    const nav = document.createElement("nav");
    nav.setAttribute("aria-label", "Level");
    const select = document.createElement("select");
    select.setAttribute("aria-label", `Level, ${chooser.dataset.unit}`);
    for (const choice of choices) select.add(new Option(`${choice.dataset.level} ${chooser.dataset.unit}`));
    const pick = (index) => {
      select.selectedIndex = Math.min(Math.max(index, 0), choices.length - 1);
      choices.forEach((choice, i) => { choice.hidden = i !== select.selectedIndex; });
    };
    const button = (text, by) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.addEventListener("click", () => pick(select.selectedIndex + by));
      return made;
    };
    select.addEventListener("change", () => pick(select.selectedIndex));
    nav.append(button("← lower", -1), select, button("higher →", 1));
    chooser.prepend(nav);
    pick(0);
  }

  for (const box of document.querySelectorAll(".command")) {
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", async () => {
      const code = box.querySelector("code");
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Selected";
      }
    });
    box.append(copy);
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    show(null);
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
