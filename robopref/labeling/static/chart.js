// Small drawings in SVG. Colours come from the style sheet, by class.

const SVG = "http://www.w3.org/2000/svg";

export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const text = (x, y, said, anchor = "middle") => draw("text", { x, y, "text-anchor": anchor }, said);

// A curve with its intervals. points: {x, y, low, high}, shares in [0, 1], low and high may be null.
export function curve(points, { xName, label, chance }) {
  const [width, height, left, right, top, foot] = [640, 240, 52, 16, 12, 44];
  const most = Math.max(...points.map((point) => point.x), 1);
  const bottom = Math.min(0.4, ...points.map((point) => Math.floor((point.low ?? point.y) * 5) / 5)); // all is shown
  const x = (value) => left + ((width - left - right) * value) / most;
  const y = (value) => top + ((height - top - foot) * (1 - value)) / (1 - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  for (let tick = Math.round(bottom * 10); tick <= 10; tick += 2) {
    svg.append(draw("line", { x1: left, x2: width - right, y1: y(tick / 10), y2: y(tick / 10), class: "grid" }));
    svg.append(text(left - 8, y(tick / 10) + 5, `${tick * 10} %`, "end"));
  }
  for (const tick of ticks(most)) svg.append(text(x(tick), height - foot + 20, tick));
  svg.append(text((left + width - right) / 2, height - 4, xName));
  svg.append(draw("line", { x1: left, x2: width - right, y1: y(chance), y2: y(chance), class: "chance" }));
  svg.append(text(left + 4, y(chance) - 5, "a coin", "start"));
  const known = points.filter((point) => point.low !== null && point.high !== null);
  const outline = [...known.map((p) => [x(p.x), y(p.high)]), ...known.reverse().map((p) => [x(p.x), y(p.low)])];
  svg.append(draw("polygon", { points: outline.map((p) => p.join(",")).join(" "), class: "band" }));
  for (const p of known) svg.append(draw("line", { x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high), class: "spread" }));
  svg.append(draw("polyline", { points: points.map((p) => `${x(p.x)},${y(p.y)}`).join(" "), class: "line" }));
  for (const p of points) svg.append(draw("circle", { cx: x(p.x), cy: y(p.y), r: 4, class: "dot" }));
  return svg;
}

// A share on a line from 0 to 1, with its interval; a tick marks where chance lies.
export function interval({ value, low, high }, { from = 0, to = 1, chance = null } = {}) {
  const [width, height] = [120, 22];
  const x = (v) => 6 + ((width - 12) * (Math.min(Math.max(v, from), to) - from)) / (to - from);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart interval", "aria-hidden": "true" });
  svg.append(draw("line", { x1: 6, x2: width - 6, y1: 11, y2: 11, class: "grid" }));
  if (chance !== null) svg.append(draw("line", { x1: x(chance), x2: x(chance), y1: 3, y2: 19, class: "chance" }));
  if (value === null) return svg;
  if (low !== null) svg.append(draw("line", { x1: x(low), x2: x(high), y1: 11, y2: 11, class: "reach" }));
  svg.append(draw("circle", { cx: x(value), cy: 11, r: 5, class: "dot" }));
  return svg;
}

// How many values fall into each of some bins. counts: numbers; edges: one more than counts.
export function histogram(counts, edges, { xName, label }) {
  const [width, height, left, right, top, foot] = [640, 180, 52, 16, 12, 44];
  const most = Math.max(...counts, 1);
  const bar = (width - left - right) / counts.length;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  svg.append(draw("line", { x1: left, x2: width - right, y1: height - foot, y2: height - foot, class: "grid" }));
  counts.forEach((count, i) => {
    const tall = ((height - top - foot) * count) / most;
    const place = { x: left + i * bar + 1, y: height - foot - tall, width: bar - 2, height: tall, class: "bar" };
    svg.append(draw("rect", place));
  });
  edges.forEach((edge, i) => {
    if (i % 2 === 0) svg.append(text(left + i * bar, height - foot + 20, edge));
  });
  svg.append(text(left - 8, top + 8, most, "end"), text((left + width - right) / 2, height - 4, xName));
  return svg;
}

function ticks(most) {
  const rough = most / 5;
  const size = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = [1, 2, 5, 10].map((n) => n * size).find((s) => s >= rough) ?? 1;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => Math.round(i * step));
}
