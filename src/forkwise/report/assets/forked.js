"use strict";
// What `forkwise forks` measured: the chance of success along a trace, what a token decides, and where its ways lead.
const Forked = (() => {
  const { make } = Pane;
  const number = Charts.number;
  const quoted = (text) => JSON.stringify(text).slice(1, -1) || "(empty)";
  const verdict = (correct) => (correct == null ? "no verdict" : correct ? "correct" : "wrong");

  /* The state before piece i, if the sample was continued from there. */
  const at = (trace, i) => trace?.f?.find((state) => state.at === i);

  /* Draws the chance of success along the trace, with two standard errors, up to its verdict; null where none is known. */
  function profile(host, pane, arm, correct) {
    host.replaceChildren();
    const values = pane.trace?.v ?? [], end = pane.trace?.t.length ?? 0;
    host.hidden = !values.length;
    if (host.hidden) return null;
    const points = values.map(([x, v, e]) => [x, v / 1000, Math.max(0, (v - 2 * e) / 1000), Math.min(1, (v + 2 * e) / 1000)]);
    if (correct != null) points.push([end, correct, correct, correct]);
    if (points[0][0] > 0) points.unshift([0, null, null, null]);
    const column = (k) => points.map((point) => point[k]);
    return Charts.draw(host, {
      title: "", x: "", y: "P(right)", height: 110, legend: false, whole: true, range: [-0.02, 1.05],
      lines: [{ name: "chance", group: "", arm, dash: [], points: true, x: column(0), mean: column(1), low: column(2), high: column(3) }],
    });
  }

  /* What is known of the token that is chosen: the chance before it, F, and what each of its ways came to. */
  function card(pane, state) {
    const words = pane.chunk.words, list = make("dl");
    const add = (name, value) => list.append(make("dt", {}, name), make("dd", {}, value));
    if (state.v != null) add("chance before it", `${number(state.v, 2)}${state.e == null ? "" : ` ± ${number(state.e, 2)}`}`);
    add("decides, F", `${number(state.F)} (p = ${number(state.p)} of F = 0)`);
    const table = make("table"), body = make("tbody");
    table.append(make("caption", {}, "Token, its chance, right of continuations"), body);
    for (const way of state.ways) {
      body.append(make("tr", {}, make("td", { class: "word" }, quoted(words[way.t])), make("td", { class: "number" }, number(way.p, 2)),
        make("td", { class: "number" }, way.right == null ? "–" : `${Math.round(way.right * way.n)} of ${way.n}`)));
    }
    return [list, table];
  }

  /* Two continuations of a state side by side: at first the likeliest way that went right beside another that went wrong. */
  function compare(host, pane, state) {
    host.replaceChildren();
    host.hidden = !state;
    if (!state) return;
    const words = pane.chunk.words;
    const all = state.ways.flatMap((way) => way.ends.map(([text, answer, correct]) => ({ way, text, answer, correct })));
    const right = Math.max(0, all.findIndex((end) => end.correct === true));
    const other = (test) => all.findIndex((end) => end.way !== all[right].way && test(end));
    const wrong = [other((end) => end.correct === false), other(() => true), all.findIndex((_, i) => i !== right), 0].find((i) => i >= 0);
    const side = (chosen, name) => {
      const select = make("select", { "aria-label": name }), text = make("pre", { tabindex: "0", role: "region", "aria-label": `${name}, text` }), facts = make("p", { class: "facts" });
      all.forEach((end, i) => select.append(new Option(`${quoted(words[end.way.t])} · p ${number(end.way.p, 2)} · ${verdict(end.correct)}`, i)));
      const show = () => {
        const end = all[Number(select.value)];
        text.textContent = words[end.text];
        facts.replaceChildren(make("span", { class: verdict(end.correct).split(" ")[0] }, verdict(end.correct)), ...(end.answer == null ? [". No answer."] : [". Answer: ", make("code", {}, words[end.answer] || "(empty)")]));
      };
      select.value = chosen;
      select.addEventListener("change", show);
      show();
      return make("div", {}, select, facts, text);
    };
    host.append(make("h3", {}, `Where the ways lead from token ${state.at + 1}`), make("div", { class: "pair" }, side(right, "First continuation"), side(wrong, "Second continuation")));
  }

  return { at, profile, card, compare };
})();
