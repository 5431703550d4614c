"use strict";
// The trace viewer. Traces lie in compressed chunks; only the chunk of the trace on view is decoded. All text goes into
// the page as text nodes.
const Viewer = (() => {
  const BLOCK = 400;  // tokens after which a new block begins at the next line break
  const KEPT = 6;  // decoded chunks

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value; else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  const option = (value, text) => { const o = make("option"); o.value = value; o.textContent = text; return o; };

  const chunks = new Map();
  function decode(id) {
    if (chunks.has(id)) {
      const found = chunks.get(id);
      chunks.delete(id);
      chunks.set(id, found);
      return found;
    }
    const promise = (async () => {
      const bytes = Uint8Array.from(atob(JSON.parse(document.getElementById(`chunk-${id}`).textContent)), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })();
    chunks.set(id, promise);
    if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    return promise;
  }

  function start(data) {
    const $ = (id) => document.getElementById(id);
    const { rows, problems, arms, top, shaping } = data;
    const count = rows.problem.length;
    const root = $("viewer"), pane = $("trace"), card = $("token");
    const state = { problem: 0, arm: 0, row: -1, token: -1, ask: 0, trace: null, chunk: null, elements: [], strip: null };
    const number = Charts.number;
    const threshold = () => data.thresholds[rows.arm[state.row]];

    problems.forEach((name, i) => $("problem").append(option(i, name)));

    const rowsOf = (problem, arm) => {
      const wanted = $("filter").value, out = [];
      for (let i = 0; i < count; i++) {
        if (rows.problem[i] !== problem || rows.arm[i] !== arm) continue;
        if (wanted === "all" || (wanted === "correct" ? rows.correct[i] === 1 : rows.correct[i] === 0)) out.push(i);
      }
      return out;
    };
    const armsOf = (problem) => [...new Set(rows.arm.filter((_, i) => rows.problem[i] === problem))].sort((a, b) => a - b);
    const verdict = (row) => (rows.correct[row] === 1 ? "correct" : rows.correct[row] === 0 ? "wrong" : "no verdict");

    const size = (row) => `${rows.size[row]} ${rows.words[row] ? "words" : "tokens"}`;

    function fill() {  // selects follow the state
      $("problem").value = state.problem;
      $("arm").replaceChildren(...armsOf(state.problem).map((arm) => option(arm, arms[arm])));
      $("arm").value = state.arm;
      const found = rowsOf(state.problem, state.arm);
      $("sample").replaceChildren(...found.map((row) => option(row, `${rows.sample[row]} · ${verdict(row)} · ${size(row)}`)));
      if (!found.includes(state.row)) state.row = found.length ? found[0] : -1;
      $("sample").value = state.row;
      $("previous").disabled = $("next").disabled = found.length < 2;
    }

    async function show() {
      if (!armsOf(state.problem).includes(state.arm)) state.arm = armsOf(state.problem)[0];
      fill();
      const ask = ++state.ask;
      state.token = -1;
      if (state.row < 0) {
        state.trace = null;
        pane.replaceChildren(make("p", { class: "hint" }, `No such sample of ${arms[state.arm]} on this problem.`));
        $("trace-facts").textContent = "";
        $("prompt").textContent = "";
        $("legend").replaceChildren();
        drawStrip();
        return say();
      }
      let chunk;
      try {
        chunk = await decode(rows.chunk[state.row]);
      } catch (error) {
        pane.replaceChildren(make("p", { class: "missing" }, `This trace cannot be unpacked here (${error.message}): the page needs a browser of 2023 or later.`));
        return;
      }
      if (ask !== state.ask) return;  // another trace was asked for meanwhile
      state.chunk = chunk;
      state.trace = chunk.traces[rows.place[state.row]];
      render();
      facts();
      drawStrip();
      say();
    }

    const level = (value) => (value == null ? 0 : Math.min(7, Math.floor((8 * value) / top)));
    const measure = () => (state.trace.h ? state.trace.h : state.trace.l ? state.trace.l.map((x) => (x == null ? null : -x)) : null);

    function render() {
      const { trace, chunk } = state;
      const values = measure();
      const marks = new Array(trace.t.length).fill("");
      for (const [key, list] of [["p", trace.p], ["r", trace.r], ["q", trace.q]]) {
        for (const [from, to] of list) for (let i = from; i < to; i++) marks[i] += ` ${key}`;
      }
      state.elements = new Array(trace.t.length);
      const blocks = [];
      let block = make("div", { class: "block" }), size = 0;
      trace.t.forEach((word, i) => {
        const text = chunk.words[word], element = document.createElement("i");
        spell(element, text, trace.tokens);
        const e = values ? level(values[i] == null ? null : values[i] / 1000) : 0;
        const name = (e ? `e${e}` : "") + marks[i];
        if (name) element.className = name.trim();
        state.elements[i] = element;
        block.append(element);
        // A block ends the line, so it may end only where the text does so too.
        if (++size >= BLOCK && text.endsWith("\n")) {
          spell(element, text.slice(0, -1), trace.tokens, true);
          blocks.push(block);
          block = make("div", { class: "block" });
          size = 0;
        }
      });
      blocks.push(block);
      pane.replaceChildren(...blocks);
      pane.classList.toggle("long", blocks.length > 4);
      pane.scrollTop = 0;
      $("prompt").textContent = chunk.words[trace.prompt] ?? "";
      legend(values);
    }

    // The text, with a sign for a line break that is (part of) a token.
    function spell(element, text, tokens, cut = false) {
      const at = text.indexOf("\n");
      if (!tokens || (at < 0 && !cut)) element.textContent = text;
      else element.replaceChildren(at < 0 ? text : text.slice(0, at), make("b"), at < 0 ? "" : text.slice(at));
    }

    function legend(values) {
      const host = $("legend");
      host.replaceChildren();
      if (!values) {
        host.append("No token data is stored with this sample, so nothing is coloured; forkwise explore --model computes it.");
        return;
      }
      host.append(make("span", { class: "name" }, state.trace.h ? "Entropy, nats:" : "No entropies stored; surprise −log p, nats:"));
      for (let e = 0; e < 8; e++) {
        host.append(make("span", { class: `step e${e}` }, e < 7 ? `${number((top * e) / 8, 2)}` : `≥ ${number((top * 7) / 8, 2)}`));
      }
    }

    function facts() {
      const row = state.row, host = $("trace-facts"), a = rows.advantage[row];
      const word = make("span", { class: verdict(row).split(" ")[0] }, verdict(row));
      const values = state.trace.h, parts = [`${arms[state.arm]}, sample ${rows.sample[row]}`];
      if (rows.run[row] !== null) parts.push(`run ${data.runs[rows.run[row]]}`);
      parts.push(size(row));
      if (values) {
        const known = values.filter((x) => x != null);
        if (known.length) parts.push(`mean entropy ${number(known.reduce((x, y) => x + y, 0) / known.length / 1000)} nats`);
      }
      if (a != null) parts.push(`advantage ${a >= 0 ? "+" : "−"}${number(Math.abs(a), 2)} within its group`);
      if (rows.finish[row] != null) parts.push(`ended by ${data.finishes[rows.finish[row]]}`);
      host.replaceChildren(word, `: ${parts.join(", ")}.${state.trace.note ? ` ${state.trace.note}` : ""}`);
    }

    function drawStrip() {
      if (state.strip) { state.strip.remove(); state.strip = null; }
      const host = $("chart-trace");
      host.replaceChildren();
      const values = state.trace && measure();
      host.hidden = !values || values.length < 2;
      if (host.hidden) return;
      const y = values.map((v) => (v == null ? null : v / 1000));
      state.strip = Charts.draw(host, {
        title: "", x: "", y: "nats", height: 96, legend: false, whole: true, range: [0, Math.max(top, ...y.filter((v) => v != null)) * 1.05],
        lines: [{ name: state.trace.h ? "entropy" : "surprise", group: "", arm: data.colours[rows.arm[state.row]], dash: [], x: y.map((_, i) => i), mean: y }],
      });
    }
    $("chart-trace").addEventListener("click", () => {
      const at = state.strip?.chart.cursor.idx;
      if (at != null) choose(at);
    });

    function choose(i) {
      if (!state.trace || !state.elements.length) return;
      state.elements[state.token]?.classList.remove("on");
      state.token = i < 0 ? -1 : Math.min(i, state.elements.length - 1);
      const element = state.elements[state.token];
      if (element) {
        element.classList.add("on");
        const box = element.getBoundingClientRect(), frame = pane.getBoundingClientRect();
        if (box.top < frame.top + 10 || box.bottom > frame.bottom - 10) {
          element.scrollIntoView({ block: "nearest", inline: "nearest" });
          const now = element.getBoundingClientRect();
          pane.scrollTop += now.top - frame.top - frame.height / 2;
        }
      }
      say();
    }

    function say() {
      const i = state.token, trace = state.trace;
      if (i < 0 || !trace) {
        card.replaceChildren(make("p", { class: "hint" }, "Click a token, or press → in the trace."));
        return;
      }
      const text = state.chunk.words[trace.t[i]], list = make("dl");
      const add = (name, value) => list.append(make("dt", {}, name), make("dd", {}, value));
      add("place", `${i + 1} of ${trace.t.length}`);
      const h = trace.h?.[i] == null ? null : trace.h[i] / 1000, l = trace.l?.[i] == null ? null : trace.l[i] / 1000;
      if (h != null) add("entropy H", `${number(h)} nats${threshold() != null && h > threshold() ? `, above ${number(threshold())}` : ""}`);
      if (l != null) add("log p", `${number(l)} (p = ${number(Math.exp(l))})`);
      const inside = (spans) => spans.some(([from, to]) => from <= i && i < to);
      const marks = [["p", "pivotal"], ["r", "in a reflective sentence"], ["q", "in a rare sentence"]].filter(([key]) => inside(trace[key])).map(([, name]) => name);
      if (marks.length) add("marks", marks.join(", "));
      const parts = [make("h3", {}, JSON.stringify(text).slice(1, -1) || "(empty)"), list];
      parts.push(...shapingOf(h));
      if (trace.a?.[i]?.length) parts.push(alternatives(trace.a[i]));
      else if (h != null) parts.push(make("p", { class: "hint" }, "No alternatives are stored with this sample."));
      card.replaceChildren(...parts);
    }

    function shapingOf(h) {
      const a = rows.advantage[state.row];
      if (h == null || a == null) return [make("p", { class: "hint" }, a == null ? "No advantage: its group has no verdicts." : "No entropy, so no ψ.")];
      const mine = shaping[rows.arm[state.row]];
      const bonus = mine.alpha * h, cap = Math.abs(a) / mine.kappa, psi = Math.min(bonus, cap);
      const list = make("dl");
      const add = (name, value) => list.append(make("dt", {}, name), make("dd", {}, value));
      add("advantage A", number(a));
      add("ψ", `min(${mine.alpha} × ${number(h)}, ${number(Math.abs(a))} / ${mine.kappa}) = ${number(psi)}${a !== 0 && cap < bonus ? ", capped" : ""}`);
      add("A + ψ", number(a + psi));
      const field = (key, low, name) => {
        const input = make("input", { type: "number", step: "0.1", min: String(low), "aria-label": name, id: `shaping-${key}` });
        input.value = mine[key];
        input.addEventListener("change", () => {
          const value = Number(input.value);
          if (Number.isFinite(value) && value > low - 1e-9 && (key === "alpha" || value > 1)) mine[key] = value;
          say();
          $(`shaping-${key}`)?.focus();
        });
        return make("label", {}, `${name} `, input);
      };
      return [list, make("p", { class: "hint" }, mine.said), make("div", { class: "controls" }, field("alpha", 0, "α"), field("kappa", 1, "κ"))];
    }

    function alternatives(pairs) {
      const table = make("table"), body = make("tbody");
      table.append(make("caption", {}, "Most likely here"), body);
      for (let j = 0; j < pairs.length; j += 2) {
        const p = Math.exp(pairs[j + 1] / 1000), bar = make("meter", { min: "0", max: "1", "aria-hidden": "true" });
        bar.value = p;
        body.append(make("tr", {}, make("td", { class: "word" }, JSON.stringify(state.chunk.words[pairs[j]]).slice(1, -1)),
          make("td", { class: "number" }, number(p)), make("td", {}, bar)));
      }
      return table;
    }

    const step = (by) => {
      const found = rowsOf(state.problem, state.arm), at = found.indexOf(state.row);
      if (found.length) { state.row = found[(at + by + found.length) % found.length]; show(); }
    };
    // The same place in the list of samples, so that models can be compared sample by sample.
    const toArm = (arm) => {
      const at = Math.max(0, rowsOf(state.problem, state.arm).indexOf(state.row));
      state.arm = arm;
      const found = rowsOf(state.problem, arm);
      state.row = found.length ? found[Math.min(at, found.length - 1)] : -1;
      show();
    };
    const toProblem = (problem) => { state.problem = (problem + problems.length) % problems.length; state.row = -1; show(); };
    const toFork = (by) => {
      const values = state.trace && measure();
      if (!values) return;
      const limit = 1000 * (threshold() ?? top / 2);
      for (let i = state.token + by; i >= 0 && i < values.length; i += by) if (values[i] != null && values[i] > limit) return choose(i);
    };

    $("problem").addEventListener("change", (event) => toProblem(Number(event.target.value)));
    $("arm").addEventListener("change", (event) => toArm(Number(event.target.value)));
    $("filter").addEventListener("change", () => show());
    $("sample").addEventListener("change", (event) => { state.row = Number(event.target.value); show(); });
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    pane.addEventListener("click", (event) => {
      const at = state.elements.indexOf(event.target.closest("i"));
      if (at >= 0) choose(at);
    });
    for (const [key, name, sample] of [["p", "pivotal", "p"], ["r", "reflective sentence", "r"], ["q", "rare sentence", "q"]]) {
      const box = make("input", { type: "checkbox" });
      box.checked = true;
      box.addEventListener("change", () => pane.classList.toggle(`no-${key}`, !box.checked));
      const shown = make("i", { class: sample }, name);
      $("marks").append(make("label", {}, box, shown));
    }

    const KEYS = {
      ArrowRight: () => choose(state.token + 1), ArrowLeft: () => state.token > 0 && choose(state.token - 1),
      Home: () => choose(0), End: () => choose(state.elements.length - 1),
      ".": () => toFork(1), ",": () => state.token > 0 && toFork(-1),
      j: () => step(1), k: () => step(-1), p: () => toProblem(state.problem + 1), P: () => toProblem(state.problem - 1),
      a: () => { const all = armsOf(state.problem); toArm(all[(all.indexOf(state.arm) + 1) % all.length]); },
      f: () => { const f = $("filter"); f.selectedIndex = (f.selectedIndex + 1) % f.options.length; show(); },
      Escape: () => choose(-1),
    };
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
      const act = Object.hasOwn(KEYS, event.key) && KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    show();
  }

  return { start };
})();
