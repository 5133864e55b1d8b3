// The state of the page, and nothing else: no DOM, no network. `next(state, event)` is pure, `createStore` keeps one state.
//
// Phases: idle -> checking -> ready | refused -> uploading -> queued -> running -> succeeded | failed | canceled
// A page opened on a job's address starts at attaching; a job may also turn out to be expired or missing.
// Another sound for a clip that the server has starts at asking. A shared link shows succeeded, with `shared` set.

import { editsOf } from "./edits.js";

export const TERMINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
export const STAGES = ["probe", "frames", "features", "events", "mel", "vocode", "mux"];

export const EMPTY = Object.freeze({
  phase: "idle",
  file: null, // File, where this tab has it
  facts: null, // {name, bytes, duration_s, width, height, playable}
  refusal: null, // {code, ...numbers}: why the browser did not take the file
  options: Object.freeze({ category: "", seed: 0 }),
  upload: null, // {loaded, total} bytes
  key: null, // Idempotency-Key of this press of Generate; a retry after a lost answer sends it again
  job: null, // the job as the server tells it
  queue: null, // {position, eta_s}
  progress: null, // {stage, step, total, fraction}
  problem: null, // {code, title, detail, hint, request_id}
  ask: null, // what a retake was asked for: {parent: the job, wishes}; null for an upload
  edits: null, // what the person changed about the result, see edits.js
  share: null, // {url, expires_at}: the page that others may open
  until: null, // when the job's files are deleted, as this browser remembers it
  shared: null, // token of the link that this page was opened with: read only
  connected: true,
  limits: null, // as /v1/limits tells them
  models: null, // [{name, version, categories}]
});

const NO_JOB = { job: null, queue: null, progress: null, problem: null, connected: true, edits: null, share: null };
const keep = ({ limits, models }) => ({ ...EMPTY, limits, models });

const transitions = {
  limits: (state, { limits }) => ({ ...state, limits }),
  models: (state, { models }) => ({ ...state, models }),
  startOver: (state) => keep(state),
  chose: (state, { file }) => ({ ...keep(state), phase: "checking", file }),
  checked(state, { file, facts, refusal }) {
    if (state.phase !== "checking" || state.file !== file) return state; // another file was chosen meanwhile
    return { ...state, phase: refusal ? "refused" : "ready", facts, refusal };
  },
  optioned: (state, { options }) => ({ ...state, options: { ...state.options, ...options } }),

  uploading: (state, { key }) => ({
    ...state, phase: "uploading", key, upload: { loaded: 0, total: state.file.size }, ...NO_JOB, ask: null,
  }),
  sent: (state, { key, loaded, total }) =>
    state.phase === "uploading" && state.key === key ? { ...state, upload: { loaded, total } } : state,
  uploadStopped: (state) =>
    state.phase === "uploading" ? { ...state, phase: state.facts ? "ready" : "idle", upload: null } : state,
  uploadFailed: (state, { problem }) => ({ ...state, phase: "failed", problem, upload: null }),

  asking: (state, { parent, wishes }) => ({
    ...state, phase: "asking", ...NO_JOB, upload: null, ask: { parent, wishes },
  }),
  askFailed: (state, { problem }) => ({ ...state, phase: "failed", problem }),

  attaching: (state, { id, until = null }) => ({ ...keep(state), phase: "attaching", job: { id }, until }),
  opening: (state, { token }) => ({ ...keep(state), phase: "attaching", job: { id: `s/${token}` }, shared: token }),
  edited: (state, { edits }) => (state.phase === "succeeded" ? { ...state, edits: { ...state.edits, ...edits } } : state),
  editsDropped: (state) => ({ ...state, edits: editsOf(state.job) }),
  sharing: (state, { id, share }) => (state.job?.id === id ? { ...state, share } : state),

  heard(state, { job }) {
    if (state.job && state.job.id !== job.id) return state; // the person went on to another clip
    const settled = TERMINAL.has(state.phase) && state.job?.id === job.id && state.phase !== job.state;
    if (settled && job.state !== "expired") return state; // a late event cannot undo an end
    return {
      ...state, job, phase: job.state, connected: true, upload: null,
      queue: job.state === "queued" ? { position: job.queue_position ?? null, eta_s: job.eta_s ?? null } : null,
      progress: job.state === "queued" ? null : furthest(state.progress, job.progress),
      problem: job.problem ?? null,
      share: job.shared ? { url: job.shared, expires_at: job.expires_at } : null,
      edits: job.state !== "succeeded" ? null : state.phase === "succeeded" && state.edits ? state.edits : editsOf(job),
    };
  },
  waiting: (state, { id, position, eta_s }) =>
    state.job?.id === id && !TERMINAL.has(state.phase) && state.phase !== "canceling"
      ? { ...state, phase: "queued", queue: { position, eta_s }, progress: null, connected: true } : state,
  progressed: (state, { id, progress }) =>
    state.job?.id === id && !TERMINAL.has(state.phase)
      ? { ...state, phase: state.phase === "canceling" ? "canceling" : "running", queue: null, connected: true,
          progress } : state, // the stream is in order; it falls only when the server began anew, and that is shown
  canceling: (state) => (TERMINAL.has(state.phase) ? state : { ...state, phase: "canceling" }),
  gone: (state, { id, phase, problem }) =>
    state.job?.id === id ? { ...state, phase, problem: problem ?? null, connected: true } : state,
  connection: (state, { connected }) => (state.connected === connected ? state : { ...state, connected }),
};

/** An answer to a plain question may be older than the last event of the stream; the bar does not go back for it. */
function furthest(had, got) {
  if (!had || !got) return got ?? had;
  return got.fraction >= had.fraction ? got : had;
}

/** state, {type, ...} -> the next state. */
export function next(state, event) {
  return transitions[event.type](state, event);
}

export function createStore() {
  let state = EMPTY;
  const listeners = [];
  return {
    get state() { return state; },
    subscribe(listener) { listeners.push(listener); },
    send(type, details = {}) {
      const before = state;
      state = next(before, { type, ...details });
      if (state !== before) listeners.forEach((listener) => listener(state, before));
    },
  };
}

/** Share of the whole that the bar shows, 0 .. 1, or null where nothing can be said. */
export function fractionOf(state) {
  if (state.phase === "uploading") return state.upload.total ? state.upload.loaded / state.upload.total : 0;
  if (state.phase === "running" || state.phase === "canceling") return state.progress?.fraction ?? 0;
  return state.phase === "succeeded" ? 1 : null;
}
