// "My clips": what this browser remembers of its jobs. Read, changed and written in one go, so that two tabs do not
// overwrite each other's clips; a full or forbidden storage only costs the list.

const KEY = "s2s.clips";
const MOST = 30;

export function list() {
  try {
    const clips = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(clips) ? clips.filter((clip) => typeof clip?.id === "string") : [];
  } catch {
    return [];
  }
}

function write(clips) {
  try {
    localStorage.setItem(KEY, JSON.stringify(clips.slice(0, MOST)));
  } catch { /* private mode or full */ }
}

/** Add a job's newest facts, or renew them where it is already known. */
export function remember({ id, ...facts }) {
  const known = list();
  const told = Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined && value !== null));
  if (known.some((clip) => clip.id === id)) write(known.map((clip) => (clip.id === id ? { ...clip, ...told } : clip)));
  else write([{ id, ...told }, ...known]);
}

export function forget(id) {
  write(list().filter((clip) => clip.id !== id));
}

export const find = (id) => list().find((clip) => clip.id === id);
export const wasHere = (id) => find(id) !== undefined;

/** The server deletes a clip at its time, whether or not this browser asks. */
export const isExpired = ({ state, expires_at }) => state === "expired" || Date.parse(expires_at) <= Date.now();

/** Another tab changed the list. */
export function onChange(listener) {
  window.addEventListener("storage", (event) => event.key === KEY && listener());
}
