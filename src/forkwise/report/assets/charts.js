"use strict";
// Line charts with bands, drawn by uPlot. Arms are switched on and off for all charts at once; hovering shows values.
const Charts = (() => {
  let DASHES = [];  // of each arm
  const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
  const hidden = new Set();
  const charts = new Set();

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (arm) => css(`--arm${arm % 7}`);
  const dashes = (arm) => DASHES[arm] ?? [];
  const faint = (arm, share) => colour(arm) + Math.round(share * 255).toString(16).padStart(2, "0");
  const number = (value, digits = 3) => (value == null || Number.isNaN(value) ? "–" : value.toFixed(digits));

  // Lines come with an x of their own; uPlot wants one for all.
  function align(lines) {
    const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const place = new Map(xs.map((x, i) => [x, i]));
    const spread = (line, values) => {
      const out = new Array(xs.length).fill(null);
      line.x.forEach((x, i) => { out[place.get(x)] = values[i]; });
      return out;
    };
    return [xs, spread];
  }

  function axis(label, extra) {
    return {
      ...(label ? { label, labelSize: 22 } : {}), size: 44, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 },
      ...extra,
    };
  }

  function bounds(columns, spec) {
    if (spec.range) return spec.range;
    let low = Infinity, high = -Infinity;
    for (const column of columns) for (const y of column) if (y != null) { low = Math.min(low, y); high = Math.max(high, y); }
    if (spec.zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
    if (!Number.isFinite(low)) return [0, 1];
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - margin, high + margin];
  }

  // Whiskers instead of bands, for points that are not a curve.
  function whiskers(u, lines, xs, columns) {
    const { ctx } = u;
    ctx.save();
    lines.forEach((line, i) => {
      if (!line.whiskers || hidden.has(line.group)) return;
      ctx.strokeStyle = line.null ? faint(line.arm, 0.45) : colour(line.arm);
      ctx.lineWidth = (line.null ? 12 : 2) * devicePixelRatio;
      xs.forEach((x, j) => {
        if (columns[i].low[j] == null) return;
        const at = u.valToPos(x, "x", true), low = u.valToPos(columns[i].low[j], "y", true), high = u.valToPos(columns[i].high[j], "y", true);
        const least = Math.max(0, 3 * devicePixelRatio - (low - high)) / 2;  // a narrow null stays visible
        ctx.beginPath();
        ctx.moveTo(at, low + (line.null ? least : 0));
        ctx.lineTo(at, high - (line.null ? least : 0));
        ctx.stroke();
      });
    });
    ctx.restore();
  }

  /* spec: {title, x: label, y: label, log, sync, zero, range, ticks: [[x, text]...], digits, height, lines}; a line: {name, group, arm,
     dash, x, mean, low, high, wideLow, wideHigh, thin, points, whiskers}. Missing bands are left out. */
  function draw(host, spec) {
    const lines = spec.lines;
    const [xs, spread] = align(lines);
    const data = [xs], series = [{ label: spec.x || spec.across || "", value: (u, v) => (v == null ? "–" : spec.name ? spec.name(v) : String(v)) }], bands = [];
    const columns = lines.map((line) => {
      const out = {};
      for (const key of ["mean", "low", "high", "wideLow", "wideHigh"]) if (line[key]) out[key] = spread(line, line[key]);
      return out;
    });
    const owners = [null];
    lines.forEach((line, i) => {
      const c = columns[i], digits = spec.digits ?? 3;
      const said = (u, v, s, j) => {
        if (j == null || v == null) return "–";
        let text = number(v, digits);
        if (c.low && c.low[j] != null) text += ` [${number(c.low[j], digits)}, ${number(c.high[j], digits)}]`;
        if (c.wideLow && c.wideLow[j] != null) text += ` band [${number(c.wideLow[j], digits)}, ${number(c.wideHigh[j], digits)}]`;
        return text;
      };
      const edge = (key) => {
        data.push(c[key]);
        series.push({ class: "quiet", show: !hidden.has(line.group), points: { show: false }, width: 0, spanGaps: true });
        owners.push(line.group);
      };
      if (!line.whiskers) {
        for (const [low, high, share] of [["wideLow", "wideHigh", 0.12], ["low", "high", 0.18]]) {
          if (!c[low]) continue;
          edge(high); edge(low);
          bands.push({ series: [series.length - 2, series.length - 1], fill: () => faint(line.arm, share) });
        }
      }
      data.push(c.mean);
      series.push({
        label: line.name, class: line.thin ? "quiet" : "arm", show: !hidden.has(line.group), value: said, spanGaps: true,
        stroke: () => (line.thin ? faint(line.arm, 0.4) : colour(line.arm)), width: line.whiskers ? 0 : line.thin ? 1 : 2.2,
        dash: (line.dash ?? dashes(line.arm)).map((pixels) => pixels * devicePixelRatio),
        points: {
          show: (!!line.points || !!line.whiskers) && !line.null, size: line.whiskers ? 9 : 6, stroke: () => colour(line.arm),
          fill: () => (line.hollow ? css("--paper") : colour(line.arm)),
        },
        paths: line.whiskers ? () => null : undefined,
      });
      owners.push(line.group);
    });
    const [low, high] = bounds(columns.flatMap((c) => Object.values(c)), spec);
    const first = xs[0] ?? 0, last = xs[xs.length - 1] ?? 1;
    const pad = spec.pad ?? (last - first || 1) * 0.02;
    const ticks = spec.ticks && spec.ticks.filter(([x]) => x >= first && x <= last);
    const width = () => Math.max(260, host.clientWidth || 600);
    const chart = new uPlot({
      title: spec.title, width: width(), height: spec.height ?? 290,
      cursor: {
        drag: { x: false, y: false, setScale: false }, points: { size: 7 }, focus: { prox: -1 },
        ...(spec.sync ? { sync: { key: spec.sync, setSeries: false, scales: ["x", null] } } : {}),
      },
      scales: {
        x: { time: false, distr: spec.log ? 3 : 1, log: 2, range: () => (spec.log ? [first / 1.08, last * 1.08] : [first - pad, last + pad]) },
        y: { range: () => [low, high] },
      },
      axes: [
        axis(spec.x, ticks ? {
          splits: () => ticks.map(([x]) => x), filter: (u, splits) => splits,
          values: (u, splits) => thin(u, splits.map((x) => ticks.find(([at]) => at === x)?.[1] ?? ""), splits),
        } : spec.whole ? { incrs: WHOLE } : {}),
        axis(spec.y, { size: 52, space: spec.height < 150 ? 18 : 30 }),
      ],
      series, bands, legend: { show: spec.legend !== false },
      hooks: {
        drawAxes: [(u) => spec.zero && rule(u)],
        draw: [(u) => whiskers(u, lines, xs, columns)],
        setLegend: [(u) => spec.brief && brief(u)],
      },
    }, data, host);
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", `${spec.title ?? spec.y} over ${spec.x}`);
    if (spec.brief) brief(chart);
    const entry = { chart, owners };
    charts.add(entry);
    const observer = new ResizeObserver(() => {
      if (host.clientWidth && Math.abs(host.clientWidth - chart.width) > 1) chart.setSize({ width: width(), height: spec.height ?? 290 });
    });
    observer.observe(host);
    return { chart, remove: () => { observer.disconnect(); charts.delete(entry); chart.destroy(); } };
  }

  // Many points at places of their own: the legend names those under the cursor alone.
  function brief(u) {
    const at = u.cursor.idx;
    u.root.querySelectorAll(".u-legend .u-series").forEach((row, i) => { row.hidden = i > 0 && (at == null || u.data[i][at] == null); });
  }

  // Labels that would run into the one before them are left out.
  function thin(u, labels, splits) {
    let end = -Infinity;
    return labels.map((label, i) => {
      const at = u.valToPos(splits[i], "x"), half = label.length * 3.6 + 3;
      if (at - half < end) return "";
      end = at + half;
      return label;
    });
  }

  function rule(u) {
    const y = Math.round(u.valToPos(0, "y", true));
    if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
    u.ctx.save();
    u.ctx.strokeStyle = css("--ink");
    u.ctx.lineWidth = devicePixelRatio;
    u.ctx.beginPath();
    u.ctx.moveTo(u.bbox.left, y);
    u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
    u.ctx.stroke();
    u.ctx.restore();
  }

  function toggle(group, shown) {
    if (shown) hidden.delete(group); else hidden.add(group);
    for (const { chart, owners } of charts) {
      chart.batch(() => owners.forEach((owner, i) => { if (owner === group) chart.setSeries(i, { show: shown }); }));
    }
  }

  const repaint = () => { for (const { chart } of charts) chart.redraw(false, true); };
  const powers = (xs) => { const out = []; for (let k = 1; k <= Math.max(...xs); k *= 2) out.push([k, String(k)]); return out; };

  // A piece of the arm's line, for legends.
  function key(arm) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "line");
    for (const [name, value] of Object.entries({ width: 40, height: 8, class: "key", "aria-hidden": "true" })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x1: 0, x2: 40, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": dashes(arm).join(" ") || "none" })) line.setAttribute(name, value);
    line.style.stroke = `var(--arm${arm % 7})`;
    svg.append(line);
    return svg;
  }
  const setDashes = (list) => { DASHES = list; };

  return { draw, toggle, repaint, powers, colour, key, setDashes, number, css };
})();
