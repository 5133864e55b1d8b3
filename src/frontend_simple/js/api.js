// All network of the page. Addresses are relative to the page, so it works under any prefix.

import { fields } from "./code.js";

/** Where the page lives; at a shared link, .../s/TOKEN, the server sets the base accordingly. */
export const BASE = new URL("./", document.baseURI);

const at = (path) => new URL(`v1/${path}`, BASE).href;

/** Where a result is read: the owner's place, or the read-only place of somebody who was given a link. */
export const job = (id) => `jobs/${encodeURIComponent(id)}`;
export const shared = (token) => `shared/${encodeURIComponent(token)}`;

/** An answer that is not 2xx, or no answer at all. `problem` is RFC 9457 where the server spoke it. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || problem.code);
    this.status = status; // 0: no answer
    this.problem = problem;
  }
}

function problemFrom(status, text, requestId) {
  try {
    const body = JSON.parse(text);
    if (typeof body?.code === "string") return { request_id: requestId, ...body };
  } catch { /* a proxy's page, not ours */ }
  const code = { 413: "too_large", 404: "not_found", 410: "gone", 429: "busy", 503: "upstream_busy" }[status];
  return { code: code ?? "unexpected", status, title: "", detail: `HTTP ${status}`, hint: "", request_id: requestId };
}

const unreachable = () => new ApiError(0, { code: "unreachable", title: "", detail: "", hint: "" });

async function fetchJson(path, options = {}) {
  let answer;
  try {
    answer = await fetch(at(path), { headers: { Accept: "application/json" }, cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  const text = await answer.text().catch(() => "");
  if (!answer.ok) throw new ApiError(answer.status, problemFrom(answer.status, text, answer.headers.get("x-request-id")));
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(answer.status, { code: "unexpected", title: "", detail: "", hint: "" });
  }
}

export const getLimits = () => fetchJson("limits");
export const getModels = () => fetchJson("models");
export const getJob = (id) => fetchJson(job(id));
export const cancelJob = (id) => fetchJson(`${job(id)}/cancel`, { method: "POST" });
export const getShared = (token) => fetchJson(shared(token));
export const resultUrl = (place, { h264 = false } = {}) => at(`${place}/result${h264 ? "?format=h264" : ""}`);
export const soundUrl = (place) => at(`${place}/audio.wav`);
export const spectrogramUrl = (place) => at(`${place}/spectrogram.png`);

/** [[lowest, highest], ...] of the sound, -1 .. 1. */
export const getPeaks = async (place, signal) => (await fetchJson(`${place}/peaks.json`, { signal })).peaks;

/** Another sound for the same upload, without sending it again. */
export const retake = (id, wishes) => postJson(`${job(id)}/retake`, wishes);

/** {url, token, expires_at}: a page that everyone may read. */
export const share = (id) => postJson(`${job(id)}/share`);
export const unshare = (id) => fetchJson(`${job(id)}/share`, { method: "DELETE" });

const postJson = (path, body) => fetchJson(path, {
  method: "POST", body: body && JSON.stringify(body),
  headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
});

/** One of the clips that come with the page, as the file that choosing it would give. */
export async function sample(name) {
  return new File([await getBlob(new URL(`samples/${name}.mp4`, BASE))], `${name}.mp4`, { type: "video/mp4" });
}

/** The status with which an address of ours answers; 0: no answer. Its first byte is asked for, the rest is not. */
export async function statusOf(url) {
  try {
    const answer = await fetch(url, { headers: { Range: "bytes=0-0" }, cache: "no-store" });
    answer.body?.cancel();
    return answer.status;
  } catch {
    return 0;
  }
}

/** Bytes behind an address of ours. */
export async function getBlob(url, signal) {
  let answer;
  try {
    answer = await fetch(url, { signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!answer.ok) throw new ApiError(answer.status, problemFrom(answer.status, "", answer.headers.get("x-request-id")));
  return answer.blob();
}

/**
 * Send the clip with `wishes` {seed, category, offset_ms, gain_db, events}; resolves to the job. XMLHttpRequest because fetch cannot tell how many bytes went out.
 * Rejects with ApiError, or with an AbortError when `signal` stops it.
 */
export function createJob(file, wishes, key, onSent, signal) {
  const form = new FormData();
  for (const [name, text] of fields(wishes)) form.append(name, text);
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", at("jobs"));
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Idempotency-Key", key);
    request.upload.onprogress = (event) => onSent(event.loaded, event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        try {
          return resolve(JSON.parse(request.responseText));
        } catch { /* not ours: told below */ }
      }
      reject(new ApiError(request.status,
        problemFrom(request.status, request.responseText, request.getResponseHeader("x-request-id"))));
    };
    request.onerror = () => file.slice(0, 1).arrayBuffer().then(() => reject(unreachable()),
      () => reject(new ApiError(0, { code: "unreadable", title: "", detail: "", hint: "" }))); // changed since it was chosen
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

const SILENCE_MS = 10_000; // no event for so long: ask once, in case a proxy holds the stream back
const ENDS = ["succeeded", "failed", "canceled", "expired"];

/**
 * Follow a job until it ends: server-sent events, and a plain question whenever the stream breaks or stays silent.
 * Calls on.job(job), on.queued({position, eta_s}), on.progress({stage, step, total, fraction}), on.lost(),
 * on.gone(ApiError 404 or 410). Returns a function that stops.
 */
export function followJob(id, on) {
  let source = null;
  let timer = 0;
  let breaks = 0; // streams in a row that ended without a word
  let losses = 0; // questions in a row without an answer
  let stopped = false;

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source?.close();
    window.removeEventListener("online", ask);
    window.removeEventListener("offline", ask);
  }
  function later(act, ms) {
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(act, ms);
  }
  function tell(found) {
    if (stopped) return;
    if (ENDS.includes(found.state)) stop();
    on.job(found);
  }
  function hang() {
    source?.close();
    source = null;
  }

  function listen() {
    hang();
    source = new EventSource(at(`${job(id)}/events`));
    const when = (name, act) => source.addEventListener(name, (event) => {
      if (stopped) return;
      breaks = 0;
      later(ask, SILENCE_MS);
      act(JSON.parse(event.data));
    });
    when("snapshot", tell);
    when("queued", on.queued);
    when("progress", on.progress);
    ENDS.forEach((name) => when(name, tell));
    source.onerror = () => {
      hang();
      breaks += 1;
      ask();
    };
    later(ask, SILENCE_MS);
  }

  async function ask() {
    try {
      tell(await getJob(id));
      losses = 0;
      if (source) later(ask, SILENCE_MS);
      else later(listen, breaks > 1 ? Math.min(1000 * breaks, 8000) : 0); // never a busy loop
    } catch (error) {
      if (stopped) return;
      if (error.status === 404 || error.status === 410) {
        stop();
        on.gone(error);
        return;
      }
      on.lost();
      hang();
      losses += 1;
      later(ask, Math.min(500 * 2 ** losses, 8000));
    }
  }

  window.addEventListener("online", ask);
  window.addEventListener("offline", ask); // an open stream may stay silent for minutes before it breaks
  listen();
  return stop;
}
