// What the page asks of the server, and the clips that it keeps at hand.

const KEPT_CLIPS = 16;

export class ServerError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status; // 0: the server does not answer
  }
}

// Return the answer's JSON. options.body makes it a POST.
export async function ask(path, options = {}) {
  const request = { headers: {} };
  if (options.body) {
    request.method = "POST";
    request.body = JSON.stringify(options.body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new ServerError(0, "The server does not answer.");
  }
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new ServerError(response.status, value.error || `The server answered ${response.status}.`);
  return value;
}

// Like ask, but waits and tries again while the server does not answer; onWait(error) is told each time.
export async function insist(path, options, onWait) {
  for (let pause = 1000; ; pause = Math.min(pause * 1.6, 8000)) {
    try {
      return await ask(path, options);
    } catch (error) {
      if (!(error instanceof ServerError) || (error.status !== 0 && error.status < 500)) throw error;
      onWait(error);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

const clips = new Map(); // key -> promise of {url, fps, frames, drawn_by, reason}

// Return a clip, complete and in memory, so that it plays at once and can be moved exactly.
export function clip(key) {
  let held = clips.get(key);
  if (!held) {
    held = fetchClip(key);
    held.catch(() => clips.delete(key));
  }
  clips.delete(key); // and to the end, so that the oldest come first
  clips.set(key, held);
  forgetOldest();
  return held;
}

async function fetchClip(key) {
  let about;
  do {
    about = await insist(`/api/clips/${key}`, {}, () => {});
  } while (about.state === "making");
  if (about.state !== "ready") throw new Error(about.reason);
  const response = await fetch(`/clips/${key}.mp4`);
  if (!response.ok) throw new Error("The clip could not be fetched; reload the page.");
  return { ...about, url: URL.createObjectURL(await response.blob()) };
}

function forgetOldest() {
  while (clips.size > KEPT_CLIPS) {
    const [key, held] = clips.entries().next().value;
    clips.delete(key);
    held.then((old) => URL.revokeObjectURL(old.url)).catch(() => {});
  }
}
