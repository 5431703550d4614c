"use strict";
// Fills the page: arms, charts, viewer.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);

  // Theme: the system's unless the button says otherwise.
  const system = matchMedia("(prefers-color-scheme: dark)");
  let theme = "system";
  const paint = () => {
    document.documentElement.classList.toggle("dark", theme === "dark" || (theme === "system" && system.matches));
    $("theme").textContent = `Theme: ${theme}`;
    Charts.repaint();
  };
  $("theme").addEventListener("click", () => { theme = { system: "dark", dark: "light", light: "system" }[theme]; paint(); });
  system.addEventListener("change", paint);
  paint();

  Charts.setDashes(data.dashes);
  const arm = (name) => Math.max(0, data.arms.indexOf(name));
  for (const name of data.arms) {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => Charts.toggle(name, box.checked));
    label.append(box, Charts.key(arm(name)), name);
    $("arms")?.append(label);
  }
  const lines = (list, extra = {}) => list.map((line) => ({ ...line, ...extra, name: line.name ?? line.arm, group: line.arm, arm: arm(line.arm) }));

  if (data.passk) {
    const { views, unit } = data.passk, select = $("control"), at = $("k");
    views.forEach((view, i) => select.append(new Option(view.name, i)));
    let drawn = [];
    const show = () => {
      drawn.forEach((chart) => chart.remove());
      const view = views[Number(select.value)];
      if (at.dataset.view !== select.value) {
        at.dataset.view = select.value;
        at.replaceChildren(...(view.ks ?? []).map((k) => new Option(k, k)));
      }
      $("at-k").hidden = !view.ks;
      $("control-note").textContent = view.note;
      const k = Number(at.value), pick = (list) => lines(list.filter((line) => !view.ks || line.k === k), { points: view.points });
      const ticks = view.log === 2 ? Charts.powers(view.values.concat(view.differences).flatMap((line) => line.x)) : view.ticks;
      const where = { x: view.x, log: !!view.log, ticks, sync: "passk" };
      drawn = [Charts.draw($("chart-passk"), { ...where, title: view.title, y: view.y, range: [0, 1.02], lines: pick(view.values) })];
      const differences = pick(view.differences);
      $("chart-difference").parentElement.hidden = !differences.length;
      if (differences.length) {
        drawn.push(Charts.draw($("chart-difference"), { ...where, title: view.paired, y: "difference", zero: true, lines: differences }));
      }
    };
    select.addEventListener("change", show);
    at.addEventListener("change", show);
    show();
  }

  for (const [where, panels] of [["charts-training", data.training], ["charts-series", data.series]]) {
    // Checkpoints are few, and have no intervals: points, and 0 in view, so that a small change looks small.
    const few = panels === data.series;
    for (const panel of panels ?? []) {
      const extra = few ? { points: true } : {};
      const figure = document.createElement("figure"), host = document.createElement("div");
      host.className = "chart";
      figure.append(host);
      $(where).append(figure);
      Charts.draw(host, { title: panel.label, x: "training step", y: "", height: 230, zero: few, lines: lines(panel.lines, extra) });
    }
  }

  if (data.entropy) {
    Charts.draw($("chart-entropy"), { title: "Share of tokens above an entropy", x: "entropy, nats", y: "share of tokens", range: [0, 1], digits: 4, lines: lines(data.entropy.above, { points: false }) });
    Charts.draw($("chart-position"), { title: "Mean entropy along the trace", x: "share of the trace, %", y: "mean entropy, nats", lines: lines(data.entropy.position, { points: false }) });
  }

  if (data.behaviours) {
    const names = data.behaviours.names;
    Charts.draw($("chart-behaviours"), {
      title: data.behaviours.title, x: "", across: "behaviour", y: "difference, nats", zero: true, pad: 0.15, brief: true, ticks: names.map((name, i) => [i, name]),
      name: (v) => names[Math.round(v)] ?? "", lines: data.behaviours.lines.map((line) => ({ ...line, arm: arm(line.group), whiskers: true })),
    });
  }

  // A heading sorts the problems, largest first, then the other way; empty cells come last. A row opens its traces.
  const table = document.querySelector("#problems table"), headings = [...document.querySelectorAll("#problems thead th")];
  headings.forEach((heading, i) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") !== (i ? "descending" : "ascending") ? !!i : !i, body = table.tBodies[0];
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => (i ? Number(row.cells[i].dataset.value ?? NaN) : row.cells[0].textContent);
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!i) return (down ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
      return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : down ? y - x : x - y;
    }));
  }));
  table?.tBodies[0].addEventListener("click", (event) => {
    if (!event.target.closest("a") && !getSelection().toString()) event.target.closest("tr")?.querySelector("a")?.click();
  });

  // What scrolls can be reached and scrolled by the keyboard.
  const scrolls = (area) => area.scrollWidth > area.clientWidth || area.scrollHeight > area.clientHeight;
  const reachable = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const attributes = { tabindex: 0, role: "group", "aria-label": target.firstElementChild.getAttribute("aria-label") };
    for (const [name, value] of Object.entries(attributes)) if (scrolls(target)) target.setAttribute(name, value); else target.removeAttribute(name);
  }));
  document.querySelectorAll(".scroll").forEach((area) => reachable.observe(area));

  if (data.traces) Viewer.start(data.traces);
  document.documentElement.dataset.ready = "yes";
})();
