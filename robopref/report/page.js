"use strict";
// A cursor on the reward trace follows the film; pressing on the trace moves the film.
for (const card of document.querySelectorAll(".rollout")) {
  const film = card.querySelector("video");
  const trace = card.querySelector(".trace");
  if (!film || !trace) continue;
  const cursor = trace.querySelector(".cursor");
  const left = Number(trace.dataset.left), right = Number(trace.dataset.right);
  const steps = Number(trace.dataset.steps);
  const place = () => {
    const share = film.duration ? Math.min(1, film.currentTime / film.duration) : 0;
    cursor.style.left = 100 * (left + (right - left) * share) + "%";
    cursor.dataset.step = "step " + Math.round(share * steps);
    cursor.hidden = false;
  };
  const follow = () => {
    place();
    if (!film.paused && !film.ended) requestAnimationFrame(follow);
  };
  film.addEventListener("play", follow);
  for (const event of ["timeupdate", "seeking", "seeked", "loadedmetadata"]) film.addEventListener(event, place);
  place();  // at the start, before the film is there
  const seek = (event) => {
    const box = trace.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - left) / (right - left);
    if (film.duration) film.currentTime = film.duration * Math.min(1, Math.max(0, share));
  };
  trace.addEventListener("pointerdown", seek);
  trace.addEventListener("pointermove", (event) => { if (event.buttons & 1) seek(event); });
}
// Paper has no folds.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of folded) fold.open = false; });
