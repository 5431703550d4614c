"use strict";
// One trace on view: its text, and what is said of the sample. All text goes into the page as text nodes.
const Pane = (() => {
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

  // Traces lie in compressed chunks; only the chunk of the trace on view is decoded.
  const chunks = new Map();
  function decode(id) {
    const known = chunks.get(id);
    chunks.delete(id);
    const promise = known ?? (async () => {
      const bytes = Uint8Array.from(atob(JSON.parse(document.getElementById(`chunk-${id}`).textContent)), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })();
    chunks.set(id, promise);
    if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    return promise;
  }

  // The text, with a sign for a line break that is (part of) a token.
  function spell(element, text, tokens, cut = false) {
    const at = text.indexOf("\n");
    if (!tokens || (at < 0 && !cut)) element.textContent = text;
    else element.replaceChildren(at < 0 ? text : text.slice(0, at), make("b"), at < 0 ? "" : text.slice(at));
  }

  // The pieces that hold a part of what is looked for.
  function hits(pieces, text) {
    const found = new Set();
    if (!text) return found;
    const lower = pieces.map((piece) => piece.toLowerCase()), whole = lower.join("");
    let piece = 0, end = lower[0]?.length ?? 0;
    for (let at = whole.indexOf(text); at >= 0; at = whole.indexOf(text, at + text.length)) {
      while (end <= at) end += lower[++piece].length;
      found.add(piece);
      while (end < at + text.length) { end += lower[++piece].length; found.add(piece); }
    }
    return found;
  }

  /* A pane that shows no trace yet. Its row is the sample on view, -1 without any; elements are those of its pieces, in
     order; marks are their classes besides the colour. */
  const create = (end) => ({
    end, text: document.getElementById(`trace${end}`), root: document.getElementById(`pane${end}`),
    arm: 0, row: -1, token: -1, ask: 0, trace: null, chunk: null, elements: [], marks: [],
  });

  /* Fills the pane with the trace of its row; false where another was asked for meanwhile. */
  async function load(pane, data, empty) {
    const ask = ++pane.ask;
    pane.trace = null;
    pane.token = -1;
    pane.elements = [];
    if (pane.row < 0) {
      pane.text.replaceChildren(make("p", { class: "hint" }, empty));
      return true;
    }
    let chunk;
    try {
      chunk = await decode(data.rows.chunk[pane.row]);
    } catch (error) {
      pane.text.replaceChildren(make("p", { class: "missing" }, `This trace cannot be unpacked here (${error.message}): the page needs a browser of 2023 or later.`));
      return ask === pane.ask;
    }
    if (ask !== pane.ask) return false;
    pane.chunk = chunk;
    pane.trace = chunk.traces[data.rows.place[pane.row]];
    render(pane);
    return true;
  }

  function render(pane) {
    const { trace, chunk } = pane;
    pane.marks = new Array(trace.t.length).fill("");
    for (const [key, list] of [["p", trace.p], ["r", trace.r], ["q", trace.q]]) {
      for (const [from, to] of list) for (let i = from; i < to; i++) pane.marks[i] += ` ${key}`;
    }
    for (const state of trace.f ?? []) pane.marks[state.at] += " f";
    const blocks = [];
    let block = make("div", { class: "block" }), size = 0;
    trace.t.forEach((word, i) => {
      const text = chunk.words[word], element = document.createElement("i");
      spell(element, text, trace.tokens);
      pane.elements[i] = element;
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
    pane.text.replaceChildren(...blocks);
    pane.text.classList.toggle("long", blocks.length > 4);
    pane.text.scrollTop = 0;
  }

  /* Colours the pieces by levels 0 to 7, and marks those that were looked for. */
  function paint(pane, level, sought) {
    if (!pane.trace) return -1;
    const found = hits(pane.trace.t.map((word) => pane.chunk.words[word]), sought);
    pane.elements.forEach((element, i) => {
      const e = level(i);
      element.className = `${e ? `e${e}` : ""}${pane.marks[i]}${found.has(i) ? " hit" : ""}${i === pane.token ? " on" : ""}`.trim();
    });
    return found.size ? Math.min(...found) : -1;
  }

  /* Says what the sample is: verdict, answer, gold, and numbers. */
  function facts(pane, data) {
    const host = document.getElementById(`trace-facts${pane.end}`), { trace, chunk, row } = pane, { rows } = data;
    if (!trace) return host.replaceChildren();
    const verdict = verdictOf(rows, row), text = (key) => (trace[key] == null ? null : chunk.words[trace[key]]);
    const quoted = (name, key, none) => (text(key) == null ? [`${name}: ${none}. `] : [`${name}: `, make("code", {}, text(key) || "(empty)"), ". "]);
    const parts = [`${data.arms[pane.arm]}, sample ${rows.sample[row]} of ${data.problems[rows.problem[row]]}`];
    if (rows.run[row] !== null) parts.push(`run ${data.runs[rows.run[row]]}`);
    parts.push(size(rows, row));
    const known = (trace.h ?? []).filter((x) => x != null), a = rows.advantage[row];
    if (known.length) parts.push(`mean entropy ${Charts.number(known.reduce((x, y) => x + y, 0) / known.length / 1000)} nats`);
    if (a != null) parts.push(`advantage ${a >= 0 ? "+" : "−"}${Charts.number(Math.abs(a), 2)} within its group`);
    if (rows.finish[row] != null) parts.push(`ended by ${data.finishes[rows.finish[row]]}`);
    host.replaceChildren(
      make("span", { class: verdict.split(" ")[0] }, verdict), text("by") == null ? ". " : ` by the rule ${text("by")}. `,
      ...quoted("Answer taken", "answer", "none"), ...quoted("Gold", "gold", "not stored"), `${parts.join(", ")}.${trace.note ? ` ${trace.note}` : ""}`,
    );
  }

  const verdictOf = (rows, row) => (rows.correct[row] === 1 ? "correct" : rows.correct[row] === 0 ? "wrong" : "no verdict");
  const size = (rows, row) => `${rows.size[row]} ${rows.words[row] ? "words" : "tokens"}`;

  return { make, decode, create, load, paint, facts, verdictOf, size };
})();
