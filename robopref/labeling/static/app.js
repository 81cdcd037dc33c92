// The labelling page: shows a pair, takes the answer, stores it, shows the next.

import { Duo, SPEEDS, Stopwatch } from "./player.js";
import { ask, clip, insist, ServerError } from "./server.js";

const $ = (id) => document.getElementById(id);
const SETTLE_MS = 250; // a key pressed this soon was meant for the pair before
const WORDS = { left: "Left", right: "Right", equal: "Equal", skip: "Skipped" };

const state = { annotator: null, study: null, turn: null, busy: false, ready: false, shownAt: 0, session: 0, showing: 0 };
const watch = new Stopwatch();
const duo = new Duo([$("left").querySelector("video"), $("right").querySelector("video")], showFrame);

// -- starting ---------------------------------------------------------------------------------------------

async function start() {
  setTheme(remembered("theme"));
  buildSpeeds();
  listen();
  try {
    state.study = await insist("/api/study", {}, waitForServer);
  } catch (error) {
    return notice(error.message);
  }
  const { study } = state;
  $("task").textContent = study.task;
  $("ask").textContent = study.question;
  for (const element of document.querySelectorAll(".slight, .strength")) element.hidden = !study.strength;
  const asked = new URLSearchParams(location.search).get("annotator");
  await enter(asked || study.annotator || remembered("annotator"));
}

async function enter(name) {
  hideToken(name);
  if (!name) return askName();
  try {
    await sendPending(name);
    show(await insist(`/api/question?annotator=${encodeURIComponent(name)}`, {}, waitForServer));
  } catch (error) {
    notice(error.message);
    if (error.status === 422) askName();
  }
}

function askName() {
  $("name-input").value = state.annotator || "";
  if (!$("name").open) $("name").showModal();
}

// The name belongs in the address, so that a reload goes on; the token does not.
function hideToken(name) {
  const query = new URLSearchParams(location.search);
  query.delete("token");
  if (name) query.set("annotator", name);
  history.replaceState(null, "", query.size ? `/?${query}` : "/");
}

// An answer that the server has not confirmed is kept until it has. It has a name of its own, so the server
// stores it once, however often it arrives.
async function sendPending(name) {
  const kept = JSON.parse(remembered("pending") || "null");
  if (!kept || kept.annotator !== name) return;
  try {
    await insist("/api/answer", { body: kept }, waitForServer);
  } catch (error) {
    notice(`An answer from before could not be stored: ${error.message}`);
  }
  remember("pending", null);
}

// -- showing ----------------------------------------------------------------------------------------------

function show(turn) {
  state.turn = turn;
  state.annotator = turn.annotator;
  remember("annotator", turn.annotator);
  $("who").textContent = turn.annotator;
  $("who").hidden = false;
  const total = turn.tally.pairs + turn.remaining;
  $("progress").max = Math.max(total, 1);
  $("progress").value = turn.tally.pairs;
  $("count").textContent = `${turn.tally.pairs} of ${total}`;
  showTally(turn.tally);
  for (const id of ["undo", "undo-last"]) $(id).disabled = !turn.last;
  $("work").hidden = !turn.question;
  $("done").hidden = Boolean(turn.question);
  document.body.removeAttribute("data-chosen");
  $("note").value = "";
  state.ready = false;
  if (turn.question) showPair(turn);
  else duo.unload();
}

async function showPair(turn) {
  const showing = ++state.showing;
  const sides = ["left", "right"];
  const current = () => showing === state.showing;
  duo.unload();
  watch.stop();
  enableChoices(false);
  $("drawn").hidden = true;
  const loading = sides.map((side) => fill(side, turn.question[side], current));
  const found = await Promise.all(loading);
  if (!current()) return;
  if (found.includes(null)) return $("skip").focus({ focusVisible: false });
  try {
    if (!(await duo.load(found))) return;
  } catch (error) {
    return notice(`This browser cannot play the clips (${error.message}). Skip the pair, or use another browser.`);
  }
  for (const side of sides) setState(side, "ready");
  showReason(found);
  state.ready = true;
  state.shownAt = performance.now();
  watch.start();
  enableChoices(true);
  duo.setSpeed(Number(remembered("speed")) || 1);
  play();
  prefetch(turn.upcoming);
}

// Fetch one side's clip; null if it cannot be shown, and then the page says why.
async function fill(side, key, current) {
  setState(side, "making", "");
  const slow = setTimeout(() => current() && setState(side, "making", "Making the clip…"), 250);
  try {
    return await clip(key);
  } catch (error) {
    if (current()) {
      clearTimeout(slow);
      setState(side, "failed", `This clip cannot be shown; skip the pair. ${error.message}`);
    }
    return null;
  } finally {
    clearTimeout(slow);
  }
}

function setState(side, value, text = "") {
  $(side).dataset.state = value;
  $(side).querySelector(".wait").textContent = text;
}

function showReason(found) {
  const reasons = new Set(found.map((made) => made.reason).filter(Boolean));
  $("drawn").hidden = reasons.size === 0;
  $("drawn").textContent = `Drawn from keypoints, since nothing could be rendered: ${[...reasons].join(" ")}`;
}

function prefetch(upcoming) {
  for (const pair of upcoming.slice(0, 2)) for (const key of pair) clip(key).catch(() => {});
}

function enableChoices(enabled) {
  for (const button of document.querySelectorAll("#choices button")) button.disabled = !enabled;
}

function showTally(tally) {
  const rows = [
    ["this session", state.session],
    ["in all", tally.answers],
    ["median", tally.median_s === null ? "–" : `${tally.median_s.toFixed(1)} s`],
    ["left : right", `${tally.left} : ${tally.right}`],
    ["equal", tally.equal],
    ["skipped", tally.skipped],
  ];
  if (tally.repeated) rows.push(["same answer again", `${tally.consistent} of ${tally.repeated}`]);
  if (tally.checks && !state.turn.question) rows.push(["checks passed", `${tally.passed} of ${tally.checks}`]);
  $("tally").replaceChildren(
    ...rows.map(([name, value]) => {
      const row = document.createElement("div");
      row.append(Object.assign(document.createElement("dt"), { textContent: name }));
      row.append(Object.assign(document.createElement("dd"), { textContent: value }));
      return row;
    }),
  );
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

function waitForServer(error) {
  const kept = state.busy ? " Your answer is kept and will be stored as soon as it does." : " Trying again…";
  notice(error.status === 0 ? `The server does not answer.${kept}` : `${error.message} Trying again…`);
}

// -- answering --------------------------------------------------------------------------------------------

async function choose(choice, slightly = false) {
  const question = state.turn?.question;
  if (!question || state.busy) return;
  if (choice !== "skip" && (!state.ready || performance.now() - state.shownAt < SETTLE_MS)) return;
  const body = { annotator: state.annotator, question: question.id, choice, slightly, note: $("note").value || null };
  if (state.ready) body.response_time_s = Math.round(watch.seconds * 1000) / 1000;
  document.body.dataset.chosen = choice;
  remember("pending", JSON.stringify(body));
  await exchange("/api/answer", body, () => {
    state.session++;
    say(`${WORDS[choice]}${slightly ? ", slightly" : ""}. Stored.`);
  });
  remember("pending", null);
}

async function undo() {
  if (!state.turn?.last || state.busy) return;
  const body = { annotator: state.annotator, answer: state.turn.last };
  await exchange("/api/undo", body, () => {
    state.session = Math.max(0, state.session - 1);
    say("Taken back. Here is the pair again.");
  });
}

// Send something and show the next turn, or the present one with the reason why it was not taken.
async function exchange(path, body, done) {
  state.busy = true;
  try {
    const turn = await insist(path, { body }, waitForServer);
    done();
    notice("");
    show(turn);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice(error.message);
    if (error.status === 401 || error.status === 403) return;
    show(await insist(`/api/question?annotator=${encodeURIComponent(state.annotator)}`, {}, waitForServer));
  } finally {
    state.busy = false;
  }
}

function say(text) {
  $("said").textContent = text;
}

// -- playing ----------------------------------------------------------------------------------------------

function play() {
  duo.play();
  showPlaying();
}

function toggle() {
  if (duo.playing) duo.pause();
  else duo.play();
  showPlaying();
}

function step(by) {
  duo.step(by);
  showPlaying();
}

function showPlaying() {
  $("play").textContent = duo.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", duo.playing ? "Pause" : "Play");
}

function showFrame(frame, frames) {
  if (Number($("scrub").max) !== frames - 1) $("scrub").max = frames - 1;
  if (document.activeElement !== $("scrub")) $("scrub").value = frame;
  $("frame").textContent = `${frame + 1} / ${frames}`;
}

function setSpeed(index) {
  duo.setSpeed(SPEEDS[index]);
  remember("speed", SPEEDS[index]);
  [...$("speeds").children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
}

function buildSpeeds() {
  const names = ["¼", "½", "1×", "2×"];
  names.forEach((name, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "tool", textContent: name });
    button.title = `Speed ${name} (${index + 1})`;
    button.addEventListener("click", () => setSpeed(index));
    $("speeds").append(button);
  });
  const index = SPEEDS.indexOf(Number(remembered("speed")) || 1);
  setSpeed(index < 0 ? 2 : index);
}

// -- keys, buttons, what is remembered --------------------------------------------------------------------

const KEYS = {
  ArrowLeft: (event) => choose("left", event.shiftKey && state.study?.strength),
  ArrowRight: (event) => choose("right", event.shiftKey && state.study?.strength),
  ArrowDown: () => choose("equal"),
  "=": () => choose("equal"),
  s: () => choose("skip"),
  z: undo,
  n: () => $("note").focus(),
  " ": toggle,
  ",": () => step(-1),
  ".": () => step(1),
  "?": () => $("keys").showModal(),
  1: () => setSpeed(0),
  2: () => setSpeed(1),
  3: () => setSpeed(2),
  4: () => setSpeed(3),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target === $("note")) {
    if (event.key === "Enter" || event.key === "Escape") target.blur();
    return;
  }
  const own = target === $("scrub") ? /^Arrow/.test(event.key) : event.key === " " && target.tagName === "BUTTON";
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (own || !action) return;
  event.preventDefault();
  if (!event.repeat || event.key === "," || event.key === ".") action(event);
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && event.detail > 0) button.blur(); // so that the next space pauses instead of pressing it again
    if (button?.dataset.choice) choose(button.dataset.choice, Boolean(button.dataset.slightly));
  });
  $("undo").addEventListener("click", undo);
  $("undo-last").addEventListener("click", undo);
  $("play").addEventListener("click", toggle);
  $("back").addEventListener("click", () => step(-1));
  $("forth").addEventListener("click", () => step(1));
  $("scrub").addEventListener("input", () => step(Number($("scrub").value) - duo.frame));
  $("scrub").addEventListener("pointerup", () => $("scrub").blur());
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-close").addEventListener("click", () => $("keys").close());
  $("who").addEventListener("click", askName);
  $("name").addEventListener("cancel", (event) => state.annotator || event.preventDefault());
  $("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("name").close();
    state.session = 0;
    notice("");
    enter($("name-input").value.trim());
  });
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    setTheme(dark === "dark" ? "light" : "dark");
  });
}

function setTheme(theme) {
  if (theme !== "light" && theme !== "dark") return;
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
}

function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`robopref.${name}`);
    else localStorage.setItem(`robopref.${name}`, value);
  } catch {
    // A browser that keeps nothing still labels.
  }
}

function remembered(name) {
  try {
    return localStorage.getItem(`robopref.${name}`);
  } catch {
    return null;
  }
}

window.robopref = { duo, state }; // for the curious, and for tests
start();
