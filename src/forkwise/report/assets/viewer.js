"use strict";
// The trace viewer: which traces are on view, in one pane or two, their colour, the token that is chosen, and the search.
const Viewer = (() => {
  const { make } = Pane;
  const option = (value, text) => { const o = make("option"); o.value = value; o.textContent = text; return o; };
  const number = Charts.number;

  function start(data) {
    const $ = (id) => document.getElementById(id);
    const { rows, problems, starts, arms, top, shaping } = data;
    const count = rows.problem.length, panes = [Pane.create(""), Pane.create("-2")], card = $("token");
    const state = { problem: 0, pane: panes[0], colour: "h", sought: "", found: [], asked: 0, strip: null, profile: null, linked: false };
    const shown = () => ($("both").checked ? panes : panes.slice(0, 1));
    const threshold = (pane) => data.thresholds[rows.arm[pane.row]];

    problems.forEach((name, i) => $("problem").append(option(i, starts[i])));

    const rowsOf = (problem, arm) => {
      const wanted = $("filter").value, out = [];
      for (let i = 0; i < count; i++) {
        if (rows.problem[i] !== problem || rows.arm[i] !== arm) continue;
        if (wanted === "all" || (wanted === "measured" ? rows.known[i] : wanted === "correct" ? rows.correct[i] === 1 : rows.correct[i] === 0)) out.push(i);
      }
      return out;
    };
    const armsOf = (problem) => [...new Set(rows.arm.filter((_, i) => rows.problem[i] === problem))].sort((a, b) => a - b);

    function fill(pane) {  // selects follow the state
      $("problem").value = state.problem;
      const { end } = pane, all = armsOf(state.problem);
      if (!all.includes(pane.arm)) pane.arm = all[Math.min(panes.indexOf(pane), all.length - 1)];
      $(`arm${end}`).replaceChildren(...all.map((arm) => option(arm, arms[arm])));
      $(`arm${end}`).value = pane.arm;
      const found = rowsOf(state.problem, pane.arm);
      $(`sample${end}`).replaceChildren(...found.map((row) => option(row, `${rows.sample[row]} · ${Pane.verdictOf(rows, row)} · ${Pane.size(rows, row)}${rows.known[row] ? ` · continued from ${rows.known[row]}` : ""}`)));
      if (!found.includes(pane.row)) pane.row = found.length ? found[0] : -1;
      $(`sample${end}`).value = pane.row;
      $(`previous${end}`).disabled = $(`next${end}`).disabled = found.length < 2;
    }

    async function show(...changed) {
      for (const pane of changed) fill(pane);
      const done = await Promise.all(changed.map((pane) => Pane.load(pane, data, `No such sample of ${arms[pane.arm]} on this problem.`)));
      if (!done.every(Boolean)) return;  // another trace was asked for meanwhile
      for (const pane of changed) Pane.facts(pane, data);
      const { trace, chunk } = panes[0].trace ? panes[0] : panes[1];
      $("prompt").textContent = trace ? chunk.words[trace.prompt] : "";
      paint();
      say();
      link();
    }

    // ---------------------------------------------------------------------------------------------------------- colour

    const psi = (pane, h) => Math.min(shaping[pane.arm].alpha * h, Math.abs(rows.advantage[pane.row]) / shaping[pane.arm].kappa);
    const noEntropy = (pane) => (pane.trace.h ? "" : "no entropies are stored");
    const noPsi = (pane) => noEntropy(pane) || (rows.advantage[pane.row] == null ? "no advantage, its group has no verdicts" : "");
    // Each with why a trace lacks it, its values in nats, and the ends of its scale for the traces on view.
    const MEASURES = {
      h: { name: "entropy H", title: "Entropy, nats:", lacks: noEntropy, of: (pane, i) => nats(pane.trace.h[i]), ends: () => [0, top] },
      psi: { name: "ψ", title: "ψ, nats:", lacks: noPsi, of: (pane, i) => then(nats(pane.trace.h[i]), (h) => psi(pane, h)), ends: (on) => [0, Math.max(...on.map((pane) => psi(pane, top)))] },
      sum: {
        name: "A + ψ", title: "A + ψ:", lacks: noPsi, of: (pane, i) => then(nats(pane.trace.h[i]), (h) => rows.advantage[pane.row] + psi(pane, h)),
        ends: (on) => [Math.min(...on.map((pane) => rows.advantage[pane.row])), Math.max(...on.map((pane) => rows.advantage[pane.row] + psi(pane, top)))],
      },
      l: { name: "−log p", title: "Surprise −log p, nats:", lacks: (pane) => (pane.trace.l ? "" : "no log-probabilities are stored"), of: (pane, i) => then(nats(pane.trace.l[i]), (l) => -l), ends: () => [0, top] },
    };
    const nats = (x) => (x == null ? null : x / 1000);
    const then = (x, f) => (x == null ? null : f(x));
    const entropyOf = (pane) => [MEASURES.h, MEASURES.l].find((measure) => pane.trace && !measure.lacks(pane));

    // The measure that was chosen, or the first that there is; the panes that have it; and the ends of its scale.
    function scale() {
      const on = shown().filter((pane) => pane.trace);
      const having = (key) => on.filter((pane) => !MEASURES[key].lacks(pane));
      const key = [state.colour, "h", "l"].find((k) => having(k).length);
      if (!key) return null;
      const [low, high] = MEASURES[key].ends(having(key));
      return { key, measure: MEASURES[key], having: having(key), low, high: high > low ? high : low + 1 };
    }

    function paint() {
      const by = scale(), host = $("legend"), on = shown().filter((pane) => pane.trace);
      for (const pane of shown()) {
        const level = (i) => {
          const value = by?.having.includes(pane) ? by.measure.of(pane, i) : null;
          return value == null ? 0 : Math.max(0, Math.min(7, Math.floor((8 * (value - by.low)) / (by.high - by.low))));
        };
        Pane.paint(pane, level, state.sought);
      }
      $("colour").replaceChildren(...Object.entries(MEASURES).map(([key, measure]) => {
        const lacks = on.map(measure.lacks), none = lacks.length > 0 && lacks.every(Boolean);
        const o = option(key, none ? `${measure.name}: ${lacks[0]}` : measure.name);
        o.disabled = none;
        return o;
      }));
      $("colour").value = by ? by.key : state.colour;
      host.replaceChildren();
      if (by) {
        host.append(make("span", { class: "name" }, `${by.key === state.colour ? "" : "Not stored, so instead: "}${by.measure.title}`));
        for (let e = 0; e < 8; e++) host.append(make("span", { class: `step e${e}` }, `${e < 7 ? "" : "≥ "}${number(by.low + ((by.high - by.low) * e) / 8, 2)}`));
        if (by.having.length < on.length) host.append(make("span", { class: "step" }, "not stored with the other trace"));
      } else if (on.length) {
        host.append("No token data is stored with this sample, so nothing is coloured; forkwise explore --model computes it.");
      }
      strip(by);
    }

    function strip(by) {
      for (const chart of [state.strip, state.profile]) chart?.remove();
      state.strip = null;
      const host = $("chart-trace"), pane = state.pane;
      state.profile = Forked.profile($("chart-chance"), pane, data.colours[rows.arm[pane.row]] ?? 0, rows.correct[pane.row]);
      host.replaceChildren();
      host.hidden = !by?.having.includes(pane) || pane.trace.t.length < 2;
      if (host.hidden) return;
      const y = pane.trace.t.map((_, i) => by.measure.of(pane, i));
      const least = Math.min(by.low, ...y.filter((v) => v != null)), most = Math.max(by.high, ...y.filter((v) => v != null));
      state.strip = Charts.draw(host, {
        title: "", x: "", y: by.measure.name, height: 110, legend: false, whole: true, range: [least, most + 0.05 * (most - least)],
        lines: [{ name: by.measure.name, group: "", arm: data.colours[rows.arm[pane.row]], dash: [], x: y.map((_, i) => i), mean: y }],
      });
    }
    $("chart-trace").addEventListener("click", () => {
      const at = state.strip?.chart.cursor.idx;
      if (at != null) choose(at);
    });

    $("chart-chance").addEventListener("click", () => {
      const { chart } = state.profile ?? {};
      if (chart?.cursor.idx != null) choose(chart.data[0][chart.cursor.idx]);
    });

    // ----------------------------------------------------------------------------------------------------------- token

    function activate(pane) {
      if (pane === state.pane) return;
      state.pane = pane;
      strip(scale());
      say();
      link();
    }

    function choose(i) {
      const pane = state.pane, { elements, text } = pane;
      if (!pane.trace || !elements.length) return;
      elements[pane.token]?.classList.remove("on");
      pane.token = i < 0 ? -1 : Math.min(i, elements.length - 1);
      const element = elements[pane.token];
      if (element) {
        element.classList.add("on");
        const box = element.getBoundingClientRect(), frame = text.getBoundingClientRect();
        if (box.top < frame.top + 10 || box.bottom > frame.bottom - 10) {
          element.scrollIntoView({ block: "nearest", inline: "nearest" });
          const now = element.getBoundingClientRect();
          text.scrollTop += now.top - frame.top - frame.height / 2;
        }
      }
      say();
    }

    function say() {
      const pane = state.pane, { token: i, trace } = pane;
      card.classList.toggle("empty", i < 0 || !trace);
      const fork = i < 0 ? null : Forked.at(trace, i);
      Forked.compare($("ways"), pane, fork);
      if (i < 0 || !trace) {
        card.replaceChildren(make("p", { class: "hint" }, "Click a token, or press → in the trace."));
        return;
      }
      const text = pane.chunk.words[trace.t[i]], list = make("dl");
      const add = (name, value) => list.append(make("dt", {}, name), make("dd", {}, value));
      add("place", `${i + 1} of ${trace.t.length}`);
      const h = nats(trace.h?.[i]), l = nats(trace.l?.[i]), limit = threshold(pane);
      if (h != null) add("entropy H", `${number(h)} nats${limit != null && h > limit ? `, above ${number(limit)}` : ""}`);
      if (l != null) add("log p", `${number(l)} (p = ${number(Math.exp(l))})`);
      const inside = (spans) => spans.some(([from, to]) => from <= i && i < to);
      const marks = [["p", "pivotal"], ["r", "in a reflective sentence"], ["q", "in a rare sentence"]].filter(([key]) => inside(trace[key])).map(([, name]) => name);
      if (marks.length) add("marks", marks.join(", "));
      const parts = [make("h3", {}, JSON.stringify(text).slice(1, -1) || "(empty)"), list, ...(fork ? Forked.card(pane, fork) : []), ...shapingOf(pane, h)];
      if (trace.a?.[i]?.length) parts.push(alternatives(pane, trace.a[i]));
      else if (h != null) parts.push(make("p", { class: "hint" }, "No alternatives are stored with this sample."));
      card.replaceChildren(...parts);
    }

    function shapingOf(pane, h) {
      const a = rows.advantage[pane.row];
      if (h == null || a == null) return [make("p", { class: "hint" }, a == null ? "No advantage: its group has no verdicts." : "No entropy, so no ψ.")];
      const mine = shaping[pane.arm], bonus = mine.alpha * h, cap = Math.abs(a) / mine.kappa;
      const list = make("dl");
      const add = (name, value) => list.append(make("dt", {}, name), make("dd", {}, value));
      add("advantage A", number(a));
      add("ψ", `min(${mine.alpha} × ${number(h)}, ${number(Math.abs(a))} / ${mine.kappa}) = ${number(psi(pane, h))}${a !== 0 && cap < bonus ? ", capped" : ""}`);
      add("A + ψ", number(a + psi(pane, h)));
      const field = (key, low, name) => {
        const input = make("input", { type: "number", step: "0.1", min: String(low), "aria-label": name, id: `shaping-${key}` });
        input.value = mine[key];
        input.addEventListener("change", () => {
          const value = Number(input.value);
          if (Number.isFinite(value) && value > low - 1e-9 && (key === "alpha" || value > 1)) mine[key] = value;
          paint();
          say();
          $(`shaping-${key}`)?.focus();
        });
        return make("label", {}, `${name} `, input);
      };
      return [list, make("p", { class: "hint" }, mine.said), make("div", { class: "controls" }, field("alpha", 0, "α"), field("kappa", 1, "κ"))];
    }

    function alternatives(pane, pairs) {
      const table = make("table"), body = make("tbody");
      table.append(make("caption", {}, "Most likely here"), body);
      for (let j = 0; j < pairs.length; j += 2) {
        const p = Math.exp(pairs[j + 1] / 1000), bar = make("meter", { min: "0", max: "1", "aria-hidden": "true" });
        bar.value = p;
        body.append(make("tr", {}, make("td", { class: "word" }, JSON.stringify(pane.chunk.words[pairs[j]]).slice(1, -1)),
          make("td", { class: "number" }, number(p)), make("td", {}, bar)));
      }
      return table;
    }

    // ----------------------------------------------------------------------------------------------------------- moves

    const step = (pane, by) => {
      const found = rowsOf(state.problem, pane.arm), at = found.indexOf(pane.row);
      if (found.length) { pane.row = found[(at + by + found.length) % found.length]; show(pane); }
    };
    // The same place in the list of samples, so that models can be compared sample by sample.
    const toArm = (pane, arm) => {
      const at = Math.max(0, rowsOf(state.problem, pane.arm).indexOf(pane.row));
      pane.arm = arm;
      const found = rowsOf(state.problem, arm);
      pane.row = found.length ? found[Math.min(at, found.length - 1)] : -1;
      show(pane);
    };
    const toProblem = (problem) => {
      state.problem = (problem + problems.length) % problems.length;
      for (const pane of panes) pane.row = -1;
      show(...shown());
    };
    const toFork = (by) => {
      const pane = state.pane, measure = entropyOf(pane), limit = threshold(pane) ?? top / 2;
      if (!measure) return;
      for (let i = pane.token + by; i >= 0 && i < pane.elements.length; i += by) if (measure.of(pane, i) > limit) return choose(i);
    };
    const toState = (by) => {
      const places = (state.pane.trace?.f ?? []).map((fork) => fork.at).sort((a, b) => by * (a - b));
      const next = places.find((at) => by * (at - state.pane.token) > 0);
      if (next != null) choose(next);
    };
    const sideBySide = () => {
      const both = $("both").checked, all = armsOf(state.problem);
      panes[1].root.hidden = !both;
      if (!both) { state.pane = panes[0]; paint(); return say(); }
      if (panes[1].row < 0 || rows.problem[panes[1].row] !== state.problem) panes[1].arm = all[(all.indexOf(panes[0].arm) + 1) % all.length];
      show(panes[1]);
    };
    async function toRow(row) {
      if (Pane.verdictOf(rows, row) !== $("filter").value && !($("filter").value === "measured" && rows.known[row])) $("filter").value = "all";
      state.problem = rows.problem[row];
      Object.assign(state.pane, { arm: rows.arm[row], row });
      for (const pane of panes) if (pane !== state.pane && rows.problem[pane.row] !== state.problem) pane.row = -1;
      await show(...shown());
    }

    // ------------------------------------------------------------------------------------------------ search, and links

    async function search() {
      const ask = ++state.asked, sought = $("search").value.toLowerCase(), found = [];
      state.sought = sought;
      if (sought) {
        const held = new Map();
        rows.chunk.forEach((chunk, row) => held.has(chunk) ? held.get(chunk).push(row) : held.set(chunk, [row]));
        for (const [id, members] of held) {
          const chunk = await Pane.decode(id);
          if (ask !== state.asked) return;
          for (const row of members) {
            if (chunk.traces[rows.place[row]].t.map((word) => chunk.words[word]).join("").toLowerCase().includes(sought)) found.push(row);
          }
        }
      }
      state.found = found;
      $("next-found").disabled = !found.length;
      $("found").textContent = sought ? `${found.length} of ${count} traces hold it` : "";
      paint();
    }
    async function nextFound() {
      if (!state.found.length) return;
      await toRow(state.found.find((row) => row > state.pane.row) ?? state.found[0]);
      const first = state.pane.elements.findIndex((element) => element.classList.contains("hit"));
      if (first >= 0) choose(first);
    }

    const addressOf = (row) => {
      const run = rows.run[row] === null ? {} : { run: data.runs[rows.run[row]] };
      return `#${new URLSearchParams({ problem: problems[rows.problem[row]], arm: arms[rows.arm[row]], ...run, sample: rows.sample[row] })}`;
    };
    function link() {
      if (state.pane.row < 0) return;
      $("link").setAttribute("href", addressOf(state.pane.row));
      // The address of the page follows what is done in the viewer, without a step in the history for each.
      if (state.linked) history.replaceState(null, "", addressOf(state.pane.row));
      state.linked = true;
    }
    async function follow() {
      const asked = new URLSearchParams(location.hash.slice(1));
      if (!asked.has("problem")) return false;
      const row = rows.problem.findIndex((problem, i) => problems[problem] === asked.get("problem")
        && (!asked.has("arm") || arms[rows.arm[i]] === asked.get("arm")) && (!asked.has("run") || data.runs[rows.run[i]] === asked.get("run"))
        && (!asked.has("sample") || String(rows.sample[i]) === asked.get("sample")));
      $("traces").scrollIntoView();
      if (row < 0) { $("found").textContent = "The trace of this link is not in this page, which holds some of them only."; return false; }
      await toRow(row);
      state.pane.text.focus({ preventScroll: true });
      return true;
    }
    addEventListener("hashchange", follow);

    // ---------------------------------------------------------------------------------------------------------- events

    $("problem").addEventListener("change", (event) => toProblem(Number(event.target.value)));
    $("filter").addEventListener("change", () => show(...shown()));
    $("colour").addEventListener("change", (event) => { state.colour = event.target.value; paint(); });
    $("both").addEventListener("change", sideBySide);
    $("search").addEventListener("input", search);
    $("search").addEventListener("keydown", (event) => { if (event.key === "Enter") nextFound(); });
    $("next-found").addEventListener("click", nextFound);
    for (const pane of panes) {
      const { end } = pane;
      $(`arm${end}`).addEventListener("change", (event) => { activate(pane); toArm(pane, Number(event.target.value)); });
      $(`sample${end}`).addEventListener("change", (event) => { activate(pane); pane.row = Number(event.target.value); show(pane); });
      $(`previous${end}`).addEventListener("click", () => step(pane, -1));
      $(`next${end}`).addEventListener("click", () => step(pane, 1));
      pane.root.addEventListener("focusin", () => activate(pane));
      pane.text.addEventListener("click", (event) => {
        activate(pane);
        const at = pane.elements.indexOf(event.target.closest("i"));
        if (at >= 0) choose(at === pane.token ? -1 : at);
      });
    }
    for (const [key, name] of [["p", "pivotal"], ["r", "reflective sentence"], ["q", "rare sentence"], ...(data.measured ? [["f", "continued from here (forks)"]] : [])]) {
      const box = make("input", { type: "checkbox" });
      box.checked = true;
      box.addEventListener("change", () => panes.forEach((pane) => pane.text.classList.toggle(`no-${key}`, !box.checked)));
      $("marks").append(make("label", {}, box, make("i", { class: key }, name)));
    }

    const cycle = (select, changed) => {
      const open = [...select.options].filter((o) => !o.disabled);
      if (!open.length) return;
      select.value = open[(open.indexOf(select.selectedOptions[0]) + 1) % open.length].value;
      changed(select.value);
    };
    const KEYS = {
      ArrowRight: () => choose(state.pane.token + 1), ArrowLeft: () => state.pane.token > 0 && choose(state.pane.token - 1),
      Home: () => choose(0), End: () => choose(state.pane.elements.length - 1),
      s: () => toState(1), S: () => toState(-1), ".": () => toFork(1), ",": () => state.pane.token > 0 && toFork(-1),
      j: () => step(state.pane, 1), k: () => step(state.pane, -1), p: () => toProblem(state.problem + 1), P: () => toProblem(state.problem - 1),
      a: () => { const all = armsOf(state.problem); toArm(state.pane, all[(all.indexOf(state.pane.arm) + 1) % all.length]); },
      b: () => { $("both").checked = !$("both").checked; sideBySide(); },
      c: () => cycle($("colour"), (key) => { state.colour = key; paint(); }),
      f: () => cycle($("filter"), () => show(...shown())),
      "/": () => $("search").focus(), n: nextFound, Escape: () => choose(-1),
    };
    $("viewer").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), select")) return;
      const act = Object.hasOwn(KEYS, event.key) && KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    say();
    if (data.measured) $("filter").append(option("measured", "continued ones"));
    const first = data.measured ? rows.known.indexOf(Math.max(...rows.known)) : -1;  // the sample of which most is known
    follow().then((found) => found || (first < 0 ? show(panes[0]) : toRow(first)));
  }

  return { start };
})();
