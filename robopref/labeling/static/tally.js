// What a person has answered so far, beside the clips.

import { $, make } from "./common.js";

// session: answers since the person began; ended: whether nothing is left to ask.
export function showTally(tally, { session, feedback, ended }) {
  const { left = 0, right = 0, equal = 0, skip = 0, up = 0, down = 0 } = tally.chosen;
  const rows = [
    ["this session", session],
    ["in all", tally.answers],
    ["median", tally.median_s === null ? "–" : `${tally.median_s.toFixed(1)} s`],
  ];
  if (feedback === "updown") rows.push(["good : bad", `${up} : ${down}`]);
  else rows.push(["left : right", `${left} : ${right}`], ["equal", equal]);
  rows.push(["skipped", skip]);
  if (tally.repeated) rows.push(["same answer again", `${tally.consistent} of ${tally.repeated}`]);
  if (tally.checks && ended) rows.push(["checks passed", `${tally.passed} of ${tally.checks}`]);
  $("tally").replaceChildren(
    ...rows.map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })),
    ),
  );
}
