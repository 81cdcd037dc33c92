// The page about agreement, consistency, bias and response times.

import { histogram, interval } from "./chart.js";
import { $, hideToken, make, notice, startTheme } from "./common.js";
import { insist } from "./server.js";

const percent = (value) => `${Math.round(100 * value)}\u00a0%`;
const number = (value) => value.toFixed(2);
const seconds = (value) => (value === null ? "–" : `${value.toFixed(1)} s`);
const chance = { chance: 0.5 };

// A value, its interval in words and as a drawing; a dash where nothing is known.
function estimate(found, form = percent, scale = {}) {
  const cell = make("td", { className: "number" });
  if (found.value === null) return make("td", { className: "number", textContent: "–" });
  const reach = found.low === null ? "" : ` (${form(found.low)} to ${form(found.high)})`;
  cell.append(interval(found, scale), make("span", { textContent: form(found.value) }));
  cell.append(make("small", { textContent: `${reach} n\u00a0=\u00a0${found.n}` }));
  return cell;
}

const plain = (value) => make("td", { className: "number", textContent: value });
const heading = (name) => make("th", { scope: "row", textContent: name });

function fill(table, columns, rows) {
  const first = rows[0] ? [...rows[0].children] : []; // a heading stands as its column does
  const names = columns.map((name, i) =>
    make("th", { scope: "col", className: first[i]?.className ?? "", textContent: name }),
  );
  table.replaceChildren(make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows));
}

function facts(rows) {
  $("facts").replaceChildren(
    ...rows.map(([name, value, more]) =>
      make(
        "div",
        {},
        make("dt", { textContent: name }),
        make("dd", { textContent: value }),
        make("dd", { className: "small", textContent: more }),
      ),
    ),
  );
}

function alpha(found) {
  if (found.value === null) return ["–", "needs items that two people answered"];
  const reach = found.low === null ? "" : `${number(found.low)} to ${number(found.high)}, `;
  return [number(found.value), `${reach}on ${found.n} shared`];
}

function show(found) {
  const single = found.feedback === "updown";
  const what = single ? "clips" : "pairs";
  const answers = found.annotators.reduce((sum, person) => sum + person.answers, 0);
  facts([
    ["Answers", answers, `by ${found.annotators.length} ${found.annotators.length === 1 ? "person" : "people"}`],
    [single ? "Clips" : "Pairs", found.pairs, `${found.shared_pairs} answered by two or more`],
    ["Krippendorff's alpha", ...alpha(found.alpha_nominal)],
    ["Alpha, ordinal", ...alpha(found.alpha_ordinal)],
  ]);
  const sides = ["Sides swapped", "Left side", "p"];
  fill(
    $("people"),
    ["Annotator", "Answers", "Equal", "Skipped", "Same again", ...(single ? [] : sides), "Checks right",
      ...(single ? [] : ["Flip rate"]), "Median time"],
    found.annotators.map((person) =>
      make(
        "tr",
        {},
        heading(person.annotator),
        plain(person.answers),
        plain(person.ties),
        plain(person.skips),
        estimate(person.repeated, percent, chance),
        ...(single
          ? []
          : [
              estimate(person.mirrored, percent, chance),
              estimate(person.position.left, percent, chance),
              plain(person.position.p_value === null ? "–" : person.position.p_value.toFixed(3)),
            ]),
        estimate(person.gold, percent, chance),
        ...(single ? [] : [plain(person.flip_rate === null ? "–" : percent(person.flip_rate))]),
        plain(seconds(person.response_time_s)),
      ),
    ),
  );
  $("kappa-card").hidden = found.kappas.length === 0;
  fill(
    $("kappas"),
    ["One", "The other", "Kappa"],
    found.kappas.map((two) =>
      make("tr", {}, heading(two.first), make("td", { textContent: two.second }), estimate(two.kappa, number, { from: -1, chance: 0 })),
    ),
  );
  showTimes(found);
  showPairs(found, single, what);
}

function showTimes(found) {
  const edges = [...found.response_edges_s, "∞"];
  const label = `Response times: ${found.response_times.map((n, i) => `${n} from ${edges[i]} s on`).join(", ")}.`;
  $("times").replaceChildren(histogram(found.response_times, edges, { xName: "seconds", label }));
}

function showPairs(found, single, what) {
  const words = single ? ["bad", "", "good"] : ["second", "equal", "first"];
  const segment = ([episode, start, length]) => `episode ${episode}, ${start} to ${start + length}`;
  fill(
    $("pairs"),
    [...(single ? ["Clip"] : ["First", "Second"]), "Answers", single ? "Good" : "First better", "Median time"],
    found.by_pair.map((pair) =>
      make(
        "tr",
        {},
        ...pair.segments.map((each) => make("td", { textContent: segment(each) })),
        make("td", {
          textContent: Object.entries(pair.answers).map(([who, said]) => `${who}: ${words[said]}`).join(", "),
        }),
        plain(percent(pair.consensus)),
        plain(seconds(pair.response_time_s)),
      ),
    ),
  );
  $("pairs-title").textContent = `The most disputed ${what}`;
}

async function start() {
  startTheme();
  hideToken();
  try {
    const found = await insist("/api/quality", {}, (error) => notice(error.message));
    notice(found.empty);
    $("found").hidden = Boolean(found.empty);
    if (!found.empty) show(found);
  } catch (error) {
    notice(error.message);
  }
}

start();
