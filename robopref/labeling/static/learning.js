// The learning curve beside the clips: what a model that learns from the labels is worth by now.

import { curve } from "./chart.js";
import { $ } from "./common.js";
import { ask } from "./server.js";

const EVERY_MS = 4000;
let shown = "";

export async function followLearning() {
  $("learning").hidden = false;
  try {
    if (!document.hidden) show(await ask("/api/online"));
  } catch {
    // The labelling itself says when the server does not answer.
  }
  setTimeout(followLearning, EVERY_MS);
}

function show(status) {
  const now = JSON.stringify(status);
  if (now === shown) return;
  shown = now;
  $("learning-said").textContent = status.message;
  const points = status.points
    .filter(({ agreement }) => agreement !== null)
    .map(({ labels, agreement, low, high }) => ({ x: labels, y: agreement, low, high }));
  const last = points.at(-1);
  $("learning-curve").replaceChildren();
  if (!last) return;
  const percent = (value) => `${Math.round(100 * value)} %`;
  const label = `Agreement with labels it has not seen: ${percent(last.y)} after ${last.x} labels.`;
  $("learning-curve").append(curve(points, { xName: "labels", label, chance: 0.5 }));
}
