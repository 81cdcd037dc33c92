// The labelling page: shows a question, takes the answer, stores it, shows the next.

import { $, hideToken, make, notice, remember, remembered, setQuery, startTheme } from "./common.js";
import { followLearning } from "./learning.js";
import { Player, SPEEDS, Stopwatch } from "./player.js";
import { clip, insist, ServerError } from "./server.js";
import { showTally } from "./tally.js";

const ASK_AGAIN_MS = 15000; // while others have before them all that is left
const SETTLE_MS = 250; // a key pressed this soon was meant for the question before
const SIDES = ["left", "right"];
const WORDS = {
  left: "Left", right: "Right", equal: "Equal", skip: "Skipped", up: "Good", down: "Bad", rest: "The rest is equal",
};

const state = {
  annotator: null, study: null, turn: null, busy: false, ready: false, shownAt: 0, session: 0, showing: 0,
  part: { from: null, to: null }, // frames between which lies what decided
};
const watch = new Stopwatch();
const player = new Player(SIDES.map((side) => $(side).querySelector("video")), showFrame);

// -- starting ---------------------------------------------------------------------------------------------

async function start() {
  hideToken();
  startTheme();
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
  for (const element of document.querySelectorAll("[data-for]")) {
    element.toggleAttribute("hidden", !element.dataset.for.split(" ").includes(study.feedback));
  }
  for (const element of document.querySelectorAll(".strength")) element.hidden = !study.strength;
  document.body.dataset.feedback = study.feedback;
  $("right").hidden = study.feedback === "updown";
  $("pages").hidden = !study.admin;
  $("who").disabled = study.bound;
  if (study.online) followLearning();
  const asked = new URLSearchParams(location.search).get("annotator");
  const name = study.bound ? study.annotator : asked || study.annotator || remembered("annotator");
  // To ask for a question keeps it for a person: where another site's link opened the page, they begin.
  if ("lured" in document.body.dataset) askName(name);
  else await enter(name);
}

async function enter(name) {
  nameAddress(name);
  if (!name) return askName();
  try {
    await sendPending(name);
    show(await insist(`/api/question?annotator=${encodeURIComponent(name)}`, {}, waitForServer));
  } catch (error) {
    notice(error.message);
    if (error.status === 422) askName();
  }
}

function askName(name = state.annotator) {
  $("name-input").value = name || "";
  $("name-input").readOnly = state.study.bound;
  if (!$("name").open) $("name").showModal();
}

// The name belongs in the address, so that a reload goes on.
function nameAddress(name) {
  const query = new URLSearchParams(location.search);
  if (name) query.set("annotator", name);
  setQuery(query);
}

// An answer that the server has not confirmed is kept until it has. It has a name of its own, so the server
// stores it once, however often it arrives. Each annotator's is kept apart: several may share a browser.
const pendingOf = (annotator) => `pending.${annotator}`;

async function sendPending(name) {
  const key = pendingOf(name.normalize("NFC").trim().split(/\s+/).join(" ")); // as the server spells it
  const text = remembered(key);
  if (!text) return;
  let kept;
  try {
    kept = JSON.parse(text);
  } catch {
    remember(key, null);
    return notice("An answer from before could not be read and is given up; its question comes again.");
  }
  try {
    await insist("/api/answer", { body: kept }, waitForServer);
  } catch (error) {
    notice(`An answer from before could not be stored: ${error.message}`);
    if (isShutOut(error)) return; // kept for when the right token is there
  }
  remember(key, null);
}

// -- showing ----------------------------------------------------------------------------------------------

function show(turn) {
  state.turn = turn;
  state.annotator = turn.annotator;
  remember("annotator", turn.annotator);
  $("who").textContent = turn.annotator;
  $("who").hidden = false;
  $("progress").max = Math.max(turn.total, 1);
  $("progress").value = turn.done;
  $("count").textContent = `${turn.done} of ${turn.total}`;
  showTally(turn.tally, { session: state.session, feedback: state.study.feedback, ended: !turn.question });
  for (const id of ["undo", "undo-last"]) $(id).disabled = !turn.last;
  $("work").hidden = !turn.question;
  $("done").hidden = Boolean(turn.question);
  $("ask").hidden = !turn.question;
  if (!turn.question) showEnd(turn);
  document.body.removeAttribute("data-chosen");
  $("note").value = "";
  markPart(null, null);
  state.ready = false;
  if (turn.question) showClips(turn);
  else player.unload();
}

// What others have before them may come back: then the page goes on by itself.
function showEnd(turn) {
  const rest = turn.kept === 1 ? "the one that is left" : `the ${turn.kept} that are left`;
  $("done-title").textContent = turn.kept ? "Others are at the rest." : "Nothing is left to ask. Thank you!";
  $("done-text").textContent = turn.kept
    ? `All your answers are stored. Other people have ${rest} before them; what they leave comes here by itself.`
    : "All your answers are stored. To go on, ask the person who runs this study for more.";
  if (turn.kept) setTimeout(() => state.turn === turn && !state.busy && enter(turn.annotator), ASK_AGAIN_MS);
}

async function showClips(turn) {
  const showing = ++state.showing;
  const sides = SIDES.slice(0, turn.question.clips.length);
  const current = () => showing === state.showing;
  player.unload();
  watch.stop();
  enableChoices(false);
  showList(turn.question.list);
  $("drawn").hidden = true;
  const found = await Promise.all(sides.map((side, i) => fill(side, turn.question.clips[i], current)));
  if (!current()) return;
  if (found.includes(null)) return $("skip").focus({ focusVisible: false });
  try {
    if (!(await player.load(found))) return;
  } catch (error) {
    return notice(`This browser cannot play the clips (${error.message}). Skip them, or use another browser.`);
  }
  for (const side of sides) setState(side, "ready");
  showReason(found);
  state.ready = true;
  state.shownAt = performance.now();
  watch.start();
  enableChoices(true);
  player.setSpeed(Number(remembered("speed")) || 1);
  play();
  prefetch(turn);
}

// In a ranking, say which clips of the list these are and how long it may still take.
function showList(list) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  SIDES.forEach((side, i) => {
    const name = list ? ` · clip ${letters[list.places[i]]}` : "";
    $(side).querySelector("figcaption").textContent = (i ? "Right" : "Left") + name;
  });
  $("listed").hidden = !list;
  if (!list) return;
  const most = list.most_left === 1 ? "one comparison" : `${list.most_left} comparisons`;
  $("listed").textContent = `Ranking ${list.clips} clips, A to ${letters[list.clips - 1]}: ${most} to go at most.`;
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
      setState(side, "failed", `This clip cannot be shown; skip it. ${error.message}`);
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
  const ways = new Set(found.map((made) => made.drawn_by));
  const from = ways.has("plots") ? "the recorded numbers" : "keypoints";
  $("drawn").textContent = `Drawn from ${from}, since nothing could be rendered: ${[...reasons].join(" ")}`;
}

function prefetch(turn) {
  const items = [turn.question.list?.rest ?? [], ...turn.upcoming.slice(0, 2)];
  for (const key of items.flat()) clip(key).catch(() => {});
}

function enableChoices(enabled) {
  for (const button of document.querySelectorAll("#choices button")) button.disabled = !enabled;
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
  if (choice !== "skip") body.decided = decidedSteps();
  if (state.ready) body.response_time_s = Math.round(watch.seconds * 1000) / 1000;
  document.body.dataset.chosen = choice;
  remember(pendingOf(body.annotator), JSON.stringify(body));
  const settled = await exchange("/api/answer", body, () => {
    state.session++;
    return `${WORDS[choice]}${slightly ? ", slightly" : ""}. Stored.`;
  });
  if (settled) remember(pendingOf(body.annotator), null);
}

async function undo() {
  if (!state.turn?.last || state.busy) return;
  const body = { annotator: state.annotator, answer: state.turn.last };
  await exchange("/api/undo", body, () => {
    state.session = Math.max(0, state.session - 1);
    return "Taken back.";
  });
}

// Send something and show the next turn, or the present one with the reason why it was not taken.
// done() returns what to say of it. Returns whether the server took or refused it; one that does not let us in
// has done neither.
async function exchange(path, body, done) {
  state.busy = true;
  try {
    const turn = await insist(path, { body }, waitForServer);
    const what = done();
    notice("");
    show(turn);
    say(`${what} ${turn.question ? `Now ${turn.done + 1} of ${turn.total}.` : $("done-title").textContent}`);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice(error.message);
    if (isShutOut(error)) return false;
    show(await insist(`/api/question?annotator=${encodeURIComponent(state.annotator)}`, {}, waitForServer));
  } finally {
    state.busy = false;
  }
  return true;
}

function isShutOut(error) {
  return error.status === 401 || error.status === 403;
}

function say(text) {
  $("said").textContent = text;
}

// -- playing ----------------------------------------------------------------------------------------------

function play() {
  player.play();
  showPlaying();
}

function toggle() {
  if (player.playing) player.pause();
  else player.play();
  showPlaying();
}

function step(by) {
  player.step(by);
  showPlaying();
}

function showPlaying() {
  $("play").textContent = player.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
}

function showFrame(frame, frames) {
  if (Number($("scrub").max) !== frames - 1) $("scrub").max = frames - 1;
  if (document.activeElement !== $("scrub")) $("scrub").value = frame;
  $("frame").textContent = `${frame + 1} / ${frames}`;
}

// -- the part that decided --------------------------------------------------------------------------------

function markPart(from, to) {
  state.part = { from, to };
  const frames = player.clips ? player.frames : 1;
  const start = from ?? 0;
  const end = Math.max(to ?? frames - 1, start + 1);
  const none = from === null && to === null;
  $("part").setAttribute("x", none ? 0 : (1000 * start) / Math.max(frames - 1, 1));
  $("part").setAttribute("width", none ? 0 : (1000 * (end - start)) / Math.max(frames - 1, 1));
  $("part-clear").hidden = none;
}

function markHere(edge) {
  if (!state.ready || state.study.feedback !== "pair") return;
  let { from, to } = { ...state.part, [edge]: player.frame };
  if (from !== null && to !== null && from >= to) [from, to] = edge === "from" ? [from, null] : [null, to];
  markPart(from, to);
  say(edge === "from" ? "What decided starts here." : "What decided ends here.");
}

// What decided as first step and number of steps, from the start of both clips; null where nothing is marked.
function decidedSteps() {
  const { from, to } = state.part;
  if (from === null && to === null) return null;
  const start = Math.min(from ?? 0, Math.max(player.frames - 2, 0)); // no action follows the last frame
  const frames = Math.max((to ?? player.frames - 1) - start, 1);
  return [start * state.study.steps_per_frame, frames * state.study.steps_per_frame];
}

function setSpeed(index) {
  player.setSpeed(SPEEDS[index]);
  remember("speed", SPEEDS[index]);
  [...$("speeds").children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
}

function buildSpeeds() {
  const names = ["¼", "½", "1×", "2×"];
  names.forEach((name, index) => {
    const button = make("button", { type: "button", className: "tool", textContent: name });
    button.title = `Speed ${name} (${index + 1})`;
    button.addEventListener("click", () => setSpeed(index));
    $("speeds").append(button);
  });
  const index = SPEEDS.indexOf(Number(remembered("speed")) || 1);
  setSpeed(index < 0 ? 2 : index);
}

function showKeys() {
  $("keys").showModal();
  $("keys").scrollTop = 0; // on a small screen, showing it scrolls to its button
}

// -- keys, buttons, what is remembered --------------------------------------------------------------------

const COMMON_KEYS = {
  s: () => choose("skip"),
  z: undo,
  n: () => $("note").focus(),
  " ": toggle,
  ",": () => step(-1),
  ".": () => step(1),
  "?": showKeys,
  1: () => setSpeed(0),
  2: () => setSpeed(1),
  3: () => setSpeed(2),
  4: () => setSpeed(3),
};
const SIDE_KEYS = {
  ArrowLeft: (event) => choose("left", event.shiftKey && state.study.strength),
  ArrowRight: (event) => choose("right", event.shiftKey && state.study.strength),
  ArrowDown: () => choose("equal"),
  "=": () => choose("equal"),
};
const KEYS = {
  pair: {
    ...COMMON_KEYS, ...SIDE_KEYS,
    i: () => markHere("from"), o: () => markHere("to"), x: () => markPart(null, null),
  },
  ranking: { ...COMMON_KEYS, ...SIDE_KEYS, r: () => choose("rest") },
  updown: { ...COMMON_KEYS, ArrowUp: () => choose("up"), ArrowDown: () => choose("down") },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target === $("note")) {
    if (event.key === "Enter" || event.key === "Escape") target.blur();
    return;
  }
  const own = target === $("scrub") ? /^Arrow/.test(event.key) : event.key === " " && target.tagName === "BUTTON";
  const action = KEYS[state.study?.feedback]?.[event.key.length === 1 ? event.key.toLowerCase() : event.key];
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
  $("scrub").addEventListener("input", () => step(Number($("scrub").value) - player.frame));
  $("scrub").addEventListener("pointerup", () => $("scrub").blur());
  $("part-from").addEventListener("click", () => markHere("from"));
  $("part-to").addEventListener("click", () => markHere("to"));
  $("part-clear").addEventListener("click", () => markPart(null, null));
  $("help").addEventListener("click", showKeys);
  $("keys-close").addEventListener("click", () => $("keys").close());
  $("who").addEventListener("click", () => askName());
  $("name").addEventListener("cancel", (event) => state.annotator || event.preventDefault());
  $("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("name").close();
    state.session = 0;
    notice("");
    enter($("name-input").value.trim());
  });
}

window.robopref = { player, state }; // for the curious, and for tests
start();
