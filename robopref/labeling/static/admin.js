// The page for the person who runs a study: progress and what is kept for whom, always up to date.

import { $, hideToken, make, notice, startTheme } from "./common.js";
import { insist } from "./server.js";

const EVERY_MS = 3000;
const WHAT = { pair: "pairs", updown: "clips", ranking: "lists" };

function ago(moment) {
  if (moment === null) return "–";
  const minutes = Math.max(0, (Date.now() - new Date(moment)) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  return new Date(moment).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

function row(person, found) {
  const total = person.done + person.remaining;
  const bar = make("progress", { max: Math.max(total, 1), value: person.done });
  bar.setAttribute("aria-label", `${person.annotator}: ${person.done} of ${total}`);
  const kept = person.kept_s === null ? "" : `, kept for ${Math.ceil(person.kept_s / 60)} min`;
  const holds = person.holds === null ? "–" : `number ${person.holds + 1}${kept}`;
  return make(
    "tr",
    {},
    make("th", { scope: "row", textContent: person.annotator }),
    make("td", { className: "counted" }, bar, ` ${person.done} of ${total}`),
    make("td", { className: "number", textContent: person.answers }),
    make("td", { textContent: ago(person.last) }),
    make("td", { textContent: holds }),
    make("td", { textContent: found.tokens.includes(person.annotator) ? "own token" : "–" }),
  );
}

function show(found) {
  const what = WHAT[found.feedback];
  const answers = found.people.reduce((sum, person) => sum + person.answers, 0);
  const active = found.people.filter((person) => person.answers).length;
  const facts = [
    ["Answers", answers, `by ${active} ${active === 1 ? "person" : "people"}`],
    [what[0].toUpperCase() + what.slice(1), found.items, `${found.shared} asked of everybody`],
    ["Begun", found.begun, `${Math.max(0, found.items - found.begun)} untouched`],
  ];
  $("facts").replaceChildren(
    ...facts.map(([name, value, more]) =>
      make(
        "div",
        {},
        make("dt", { textContent: name }),
        make("dd", { textContent: value }),
        make("dd", { className: "small", textContent: more }),
      ),
    ),
  );
  const here = new Set(found.people.map((person) => person.annotator));
  const absent = found.tokens
    .filter((name) => !here.has(name))
    .map((annotator) => ({ annotator, answers: 0, done: 0, remaining: 0, last: null, holds: null, kept_s: null }));
  const names = ["Annotator", "Progress", "Answers", "Last answer", "Before them", "Access"];
  const numbers = new Set(["Answers"]);
  const column = (name) => make("th", { scope: "col", className: numbers.has(name) ? "number" : "", textContent: name });
  const head = make("tr", {}, ...names.map(column));
  const rows = [...found.people, ...absent].map((person) => row(person, found));
  $("people").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

async function refresh() {
  try {
    if (!document.hidden) show(await insist("/api/progress", {}, (error) => notice(error.message)));
    notice("");
    $("found").hidden = false;
    setTimeout(refresh, EVERY_MS);
  } catch (error) {
    notice(error.message);
  }
}

startTheme();
hideToken();
refresh();
