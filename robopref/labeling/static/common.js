// What every page needs: a short way to elements, what the browser remembers, light and dark.

export const $ = (id) => document.getElementById(id);

// Make an element; text is set as text, never as HTML.
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`robopref.${name}`);
    else localStorage.setItem(`robopref.${name}`, value);
  } catch {
    // A browser that keeps nothing still labels.
  }
}

export function remembered(name) {
  try {
    return localStorage.getItem(`robopref.${name}`);
  } catch {
    return null;
  }
}

export function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

// Take up the remembered theme, and let the button in the header change it.
export function startTheme() {
  setTheme(remembered("theme"));
  $("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    setTheme((document.documentElement.dataset.theme || system) === "dark" ? "light" : "dark");
  });
}

export function setTheme(theme) {
  if (theme !== "light" && theme !== "dark") return;
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
}

// The token came in the address and is a cookie by now: it need not stay where others may read it.
export function hideToken() {
  const query = new URLSearchParams(location.search);
  if (!query.has("token")) return;
  query.delete("token");
  setQuery(query);
}

export function setQuery(query) {
  history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : ""));
}
