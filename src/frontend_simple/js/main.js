// Starts the page: ties state (job.js), drawing (view.js) and network (api.js) together. READ FIRST.

import * as api from "./api.js";
import { checkFile } from "./check.js";
import * as clips from "./clips.js";
import { codeFor } from "./code.js";
import { differing, editsOf, wishesOf } from "./edits.js";
import { createStore, TERMINAL } from "./job.js";
import { createListening } from "./listen.js";
import { levelsOf, peaksOf } from "./strip.js";
import { createView } from "./view.js";
import { keepLanguage, say, speak } from "./words.js";

const store = createStore();
const hook = (name) => document.querySelector(`[data-${name}]`);
hook("language").value = speak();
const view = createView({
  onEdit: (edits) => store.send("edited", { edits }),
  onSeek: (time_s) => { view.video.currentTime = time_s; },
  onPlay: jump,
});
const listening = createListening(view.video);

const LIMITS_WITHIN_MS = 3000;
const RENEW_EVERY_MS = 30_000;

let preview = null; // object URL of the chosen file
let stopUpload = null;
let stopFollowing = () => {};
let stopListening = null; // of the waveform's download
let cancelWanted = false; // pressed after the last byte went out and before the server answered

// ---- choose -------------------------------------------------------------------------------------------------------

async function choose(file) {
  if (!file || stopUpload) return;
  leaveJob();
  setAddress("");
  preview = URL.createObjectURL(file);
  store.send("chose", { file });
  await Promise.race([limitsKnown, new Promise((go) => setTimeout(go, LIMITS_WITHIN_MS))]); // else the server checks
  const { facts, refusal } = await checkFile(file, preview, store.state.limits);
  if (store.state.file !== file) return;
  store.send("checked", { file, facts, refusal });
  if (store.state.phase === "ready") view.show(facts.playable ? preview : null, { muted: true, why: say("noPreview") });
}

function leaveJob() {
  stopFollowing();
  stopListening?.abort();
  asking = null; // whoever leaves need not wait for its answer
  view.show(null);
  listening.show();
  if (preview) URL.revokeObjectURL(preview);
  preview = null;
  hook("file").value = "";
}

function startOver() {
  stopUpload?.abort();
  leaveJob();
  setAddress("");
  store.send("startOver");
}

// ---- generate -----------------------------------------------------------------------------------------------------

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function generate(key = newKey()) {
  const { file, options } = store.state;
  if (!file || stopUpload) return;
  stopFollowing();
  if (preview && store.state.facts?.playable) view.show(preview, { muted: true });
  store.send("uploading", { key });
  stopUpload = new AbortController();
  cancelWanted = false;
  try {
    const job = await api.createJob(file, options, key,
      (loaded, total) => store.send("sent", { key, loaded, total }), stopUpload.signal);
    store.send("heard", { job });
    setAddress(job.id);
    follow(job.id);
    if (cancelWanted) requestCancel(job.id);
  } catch (error) {
    if (error.name === "AbortError") store.send("uploadStopped");
    else store.send("uploadFailed", { problem: error.problem ?? { code: "unexpected", detail: error.message } });
  } finally {
    stopUpload = null;
  }
}

function follow(id) {
  stopFollowing();
  stopFollowing = api.followJob(id, {
    job: (job) => store.send("heard", { job }),
    queued: (queue) => store.send("waiting", { id, ...queue }),
    progress: (progress) => store.send("progressed", { id, progress }),
    lost: () => store.send("connection", { connected: false }),
    gone: (error) => store.send("gone", {
      id, phase: error.status === 410 || clips.wasHere(id) ? "expired" : "missing", problem: error.problem,
    }),
  });
}

function cancel() {
  const { upload, job } = store.state;
  if (job) return requestCancel(job.id);
  if (upload.loaded < upload.total) return stopUpload.abort();
  cancelWanted = true; // the job may exist already, so it is canceled by name as soon as it has one
  store.send("canceling");
}

async function requestCancel(id) {
  store.send("canceling");
  try {
    const job = await api.cancelJob(id);
    if (job?.state && store.state.job?.id === id) store.send("heard", { job });
  } catch (error) {
    if (store.state.job?.id !== id) return; // the person went on to something else
    if (error.status === 0) store.send("connection", { connected: false });
    follow(id); // whatever came of it, the job itself knows
  }
}

/**
 * After an upload that gave no job the same key is sent again, so that one press never makes two jobs: the answer may
 * have been lost, or a proxy's. What was
 * made from a clip that the server has is asked for again; a job without its file in this tab too.
 */
function retry() {
  const { key, ask, job, file } = store.state;
  if (ask) return askForRetake(ask.parent, ask.wishes);
  if (file) return generate(job ? undefined : key ?? undefined);
  return askForRetake(job, wishesOf(job, editsOf(job)));
}

const anotherTake = () => {
  const { job } = store.state;
  askForRetake(job, wishesOf(job, editsOf(job), (job.report?.seed ?? 0) + 1));
};
const render = () => askForRetake(store.state.job, wishesOf(store.state.job, store.state.edits));

let asking = null; // the request for another sound that is under way

/** Another sound for a clip that the server has. Where it has it no longer, the clip is sent once more. */
async function askForRetake(parent, wishes) {
  if (asking || stopUpload) return;
  const mine = asking = {};
  stopFollowing();
  stopListening?.abort();
  store.send("asking", { parent, wishes });
  listening.show();
  const here = () => store.state.phase === "asking" && store.state.ask.parent === parent;
  try {
    const job = await api.retake(parent.id, differing(parent, wishes));
    if (!here()) return clips.remember({ id: job.id, filename: job.filename, created_at: job.created_at, state: job.state });
    store.send("heard", { job });
    setAddress(job.id);
    follow(job.id);
  } catch (error) {
    if (!here()) return;
    if ([404, 405, 410].includes(error.status)) await sendAgain(parent, wishes, here);
    else store.send("askFailed", { problem: error.problem ?? { code: "unexpected", detail: error.message } });
  } finally {
    if (asking === mine) asking = null;
  }
}

/** The picture comes from this tab, or from the result: it is the original's. */
async function sendAgain(parent, wishes, here) {
  let { file } = store.state;
  if (!file) {
    try {
      const blob = await api.getBlob(api.resultUrl(api.job(parent.id)));
      file = new File([blob], parent.filename ?? "clip.mp4", { type: blob.type });
    } catch {
      return here() && store.send("askFailed", { problem: { code: "no_file" } });
    }
    if (!here()) return;
    store.send("chose", { file });
    preview = URL.createObjectURL(file);
    store.send("checked", { file, ...(await checkFile(file, preview, store.state.limits)) });
  }
  store.send("optioned", { options: wishes });
  await generate();
}

// ---- the result ---------------------------------------------------------------------------------------------------

let place = ""; // where the shown result is read

async function showResult({ job, shared }) {
  place = shared ? api.shared(shared) : api.job(job.id);
  const links = job.links ?? {}; // an older server offers less
  const sound = links.audio ? api.soundUrl(place) : null;
  files = { download: [api.resultUrl(place), resultName(job)], ...(sound && { "download-sound": [sound, resultName(job, "wav")] }) };
  doubted = false;
  view.show(api.resultUrl(place));
  view.setDownloads(files);
  listening.show(() => api.getBlob(sound ?? api.resultUrl(place)));
  hook("file").value = "";
  document.querySelector("#with-sound").checked = true;
  drawCode();
  if (links.spectrogram) view.setSpectrogram(api.spectrogramUrl(place));
  stopListening = new AbortController();
  const { signal } = stopListening;
  try {
    const peaks = links.peaks ? await api.getPeaks(place, signal) : await peaksOf(await api.getBlob(api.resultUrl(place), signal));
    if (!signal.aborted) view.setPeaks(levelsOf(peaks));
  } catch { /* the strip stays flat, with its marks; the video itself tells if it cannot play */ }
}

let files = {};

let failures = 0; // of fetching, in a row
let doubted = false; // it could be fetched and did not play

/** What could not be fetched is fetched again; of what the browser cannot play a copy in H.264 is shown, and offered. */
async function recover() {
  const { phase, job, shared } = store.state;
  const url = view.video.src;
  if (phase !== "succeeded" || view.video.hidden) return;
  const status = await api.statusOf(url);
  if (view.video.src !== url || store.state.phase !== phase) return; // something else is shown by now
  if (status === 404 || status === 410) return store.send("gone", { id: job.id, phase: shared ? "missing" : "expired" });
  const isCopy = Boolean(files["download-copy"]);
  const refused = status >= 400 && status < 500 && status !== 429;
  const away = (status < 200 || status >= 300) && !(isCopy && refused); // or it has no time
  if (away || !doubted) { // it may have been away until a moment ago
    setTimeout(() => view.video.src === url && view.video.load(), away ? Math.min(30_000, 1000 * 2 ** failures) : 0);
    failures = away ? failures + 1 : 0;
    doubted = !away;
    return;
  }
  doubted = false;
  if (isCopy) return view.show(null, { why: say("noPreview") }); // not even the copy
  const copy = api.resultUrl(place, { h264: true });
  files["download-copy"] = [copy, resultName(job, "mp4", "-h264")];
  view.setDownloads(files);
  view.show(copy);
}

function resultName({ filename = "clip.mp4" }, kind = null, more = "") {
  const dot = filename.lastIndexOf(".");
  const [stem, suffix] = dot > 0 ? [filename.slice(0, dot), filename.slice(dot + 1).toLowerCase()] : [filename, ""];
  return `${stem}-with-sound${more}.${kind ?? (suffix === "webm" ? "webm" : "mp4")}`;
}

function jump(time_s) {
  view.video.currentTime = Math.max(0, time_s - 0.15); // a little before, so that the sound has its start
  view.video.play().catch(() => {});
}

/** From sound to sound: `way` is 1 or -1. */
function jumpBy(way) {
  const times = (store.state.job?.report?.events ?? []).map((event) => event.time_s);
  const here = view.video.currentTime;
  const next = way > 0 ? times.find((time) => time > here + 0.01) : times.findLast((time) => time < here - 0.01);
  if (next !== undefined) view.video.currentTime = next;
}

function drawCode() {
  const { job, facts, shared } = store.state;
  if (shared || !job) return;
  view.setCode(codeFor(document.querySelector("[name=code]:checked").value, {
    base: api.BASE.href.replace(/\/$/, ""), filename: facts?.name ?? job.filename ?? "clip.mp4", saveAs: resultName(job),
    wishes: { seed: job.report?.seed ?? 0, ...job.options },
  }));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not a secure origin: the old way
    const field = Object.assign(document.createElement("textarea"), { value: text, className: "for-readers" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  view.tell(say("copied"));
  button.dataset.done = say("copied");
  setTimeout(() => delete button.dataset.done, 2000);
}

// ---- sharing ------------------------------------------------------------------------------------------------------

let changingShare = null; // the job whose link is being made or revoked: a double click asks once

async function changeShare(act, focus) {
  const { id } = store.state.job;
  if (changingShare === id) return;
  changingShare = id;
  view.setShareProblem(null);
  try {
    const answer = await act(id);
    const share = answer && { url: answer.url, expires_at: answer.expires_at };
    store.send("sharing", { id, share });
    document.querySelector(focus)?.focus();
  } catch (error) {
    view.setShareProblem(error.problem ?? { code: "unexpected" });
  } finally {
    if (changingShare === id) changingShare = null;
  }
}

async function openShared(token) {
  store.send("opening", { token });
  const id = store.state.job.id;
  try {
    const found = await api.getShared(token);
    if (found.state === "succeeded") return store.send("heard", { job: { ...found, id } });
    if (TERMINAL.has(found.state)) return store.send("gone", { id, phase: "missing" });
  } catch (error) {
    if ([404, 410].includes(error.status)) return store.send("gone", { id, phase: "missing", problem: error.problem });
    store.send("connection", { connected: false });
  }
  setTimeout(() => store.state.job?.id === id && store.state.phase === "attaching" && openShared(token), 4000);
}

// ---- the address --------------------------------------------------------------------------------------------------

const addressed = () => new URLSearchParams(location.hash.slice(1)).get("job") ?? new URLSearchParams(location.search).get("job");
const invited = () => location.pathname.match(/\/s\/([^/]+)$/)?.[1] ?? null;

function setAddress(id) {
  if ((addressed() ?? "") === id && !invited()) return;
  history.pushState(null, "", id ? `${api.BASE.pathname}#job=${encodeURIComponent(id)}` : api.BASE.pathname);
}

function goToAddress() {
  const token = invited();
  const id = token ? `s/${token}` : addressed();
  if (id === (store.state.job?.id ?? null)) return;
  stopUpload?.abort();
  leaveJob();
  if (token) return openShared(token);
  if (!id) return store.send("startOver");
  store.send("attaching", { id, until: clips.find(id)?.expires_at });
  view.show(null, { why: say("noPictureYet") });
  follow(id);
}

const KEPT = new Set([...TERMINAL, "queued", "running", "canceling"]); // what goes into "My clips"

// ---- drawing follows the state ------------------------------------------------------------------------------------

store.subscribe((state, before) => {
  view.draw(state, before);
  const { job } = state;
  const moved = state.phase !== before.phase || job?.id !== before.job?.id;
  if (state.phase === "succeeded" && moved) showResult(state);
  if (state.edits && state.edits !== before.edits) {
    const made = editsOf(job);
    listening.nudge({ offset_ms: state.edits.offset_ms - made.offset_ms, gain_db: state.edits.gain_db - made.gain_db });
  }
  if (moved && ["failed", "canceled", "expired", "missing"].includes(state.phase) && !preview) {
    view.show(null);
    listening.show();
  }
  if (moved && KEPT.has(state.phase) && job?.id && !state.shared) {
    const { id, filename, created_at, expires_at, report } = job;
    clips.remember({ id, filename, created_at, expires_at, state: state.phase, seed: report?.seed });
  }
  if (moved) view.drawClips(clips.list(), job?.id);
});

async function renewClips() {
  for (const clip of clips.list().filter(({ id, state }) => !TERMINAL.has(state) && id !== store.state.job?.id)) {
    try {
      const { id, filename, state, expires_at } = await api.getJob(clip.id);
      const known = clips.find(id); // another tab may have heard of its end, or forgotten it, meanwhile
      if (known && !TERMINAL.has(known.state)) clips.remember({ id, filename, state, expires_at });
    } catch (error) {
      if ((error.status === 404 || error.status === 410) && clips.find(clip.id)) {
        clips.remember({ id: clip.id, state: "expired" });
      }
    }
  }
  view.drawClips(clips.list(), store.state.job?.id);
}

// ---- people -------------------------------------------------------------------------------------------------------

const actions = {
  "start-over": startOver, "choose-other": () => hook("file").click(), generate: () => generate(), cancel, retry,
  "another-take": anotherTake, "all-events": () => view.showAllEvents(store.state),
  render, "drop-edits": () => store.send("editsDropped"),
  share: () => changeShare(api.share, "[data-share-link]"),
  revoke: () => changeShare(api.unshare, "[data-action=share]"),
  "copy-link": (button) => copy(hook("share-link").value, button),
  "copy-code": (button) => copy(hook("code").textContent, button),
  "copy-words": (button) => copy(button.dataset.words, button),
};

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-action], [data-at], [data-forget]");
  if (!pressed || event.metaKey || event.ctrlKey) return;
  const { action, at, forget } = pressed.dataset;
  if (action) {
    event.preventDefault();
    actions[action]?.(pressed);
  } else if (at) jump(Number(at));
  else {
    clips.forget(forget);
    view.drawClips(clips.list(), store.state.job?.id);
    (document.querySelector("[data-forget]") ?? hook("file")).focus();
  }
});

hook("file").addEventListener("keydown", (event) => { // it looks like a button, so Enter presses it too
  if (event.key !== "Enter") return;
  event.preventDefault();
  event.target.click();
});
hook("file").addEventListener("change", (event) => choose(event.target.files[0]));
hook("category").addEventListener("change", (event) => store.send("optioned", { options: { category: event.target.value } }));
hook("seed").addEventListener("input", (event) => {
  const seed = event.target.valueAsNumber;
  if (Number.isSafeInteger(seed) && seed >= 0) store.send("optioned", { options: { seed } });
});
hook("language").addEventListener("change", (event) => {
  keepLanguage(speak(event.target.value));
  view.draw(store.state);
  view.drawClips(clips.list(), store.state.job?.id);
});
for (const choice of document.querySelectorAll("[name=code]")) choice.addEventListener("change", drawCode);

for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    try {
      choose(await api.sample(button.dataset.sample));
    } catch (error) {
      store.send("askFailed", { problem: error.problem });
    }
  });
}

document.addEventListener("paste", (event) => choose(event.clipboardData?.files[0]));
const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
let over = 0;
document.addEventListener("dragenter", (event) => {
  if (!carriesFile(event)) return;
  over += 1;
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!carriesFile(event)) return;
  over = Math.max(0, over - 1);
  if (!over) document.body.classList.remove("dragging");
});
document.addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  over = 0;
  document.body.classList.remove("dragging");
  choose(event.dataTransfer.files[0]);
});

for (const choice of document.querySelectorAll("[name=sound]")) {
  choice.addEventListener("change", () => { view.video.muted = choice.value === "without" && choice.checked; });
}
view.video.addEventListener("volumechange", () => {
  document.querySelector(view.video.muted ? "#without-sound" : "#with-sound").checked = true;
});
for (const name of ["timeupdate", "seeked"]) {
  view.video.addEventListener(name, () => store.state.phase === "succeeded" && view.drawHead());
}
view.video.addEventListener("error", recover);
view.video.addEventListener("loadeddata", () => {
  failures = 0;
  doubted = !view.video.videoWidth; // only its sound plays: no browser calls that an error
  if (doubted) recover();
});
view.seek.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 0.1, ArrowUp: 0.1, ArrowLeft: -0.1, ArrowDown: -0.1 }[event.key];
  const way = { PageUp: 1, PageDown: -1 }[event.key];
  if (!step && !way) return;
  event.preventDefault();
  if (way) jumpBy(way);
  else view.video.currentTime = Math.min(Number(view.seek.max), Math.max(0, view.video.currentTime + step));
  view.drawHead();
});
hook("events").addEventListener("keydown", (event) => { // up and down go through the list, and to that moment
  const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const buttons = [...document.querySelectorAll("[data-at]")];
  const next = way && buttons[buttons.indexOf(event.target.closest("[data-at]")) + way];
  if (!next) return;
  event.preventDefault();
  next.focus();
  view.video.currentTime = Number(next.dataset.at);
});
view.seek.addEventListener("input", () => {
  view.video.currentTime = Number(view.seek.value);
  view.drawHead();
});

window.addEventListener("popstate", goToAddress);
window.addEventListener("hashchange", goToAddress);
window.addEventListener("beforeunload", (event) => stopUpload && event.preventDefault());
setInterval(() => document.hidden || renewClips(), RENEW_EVERY_MS); // asks only about clips that have not ended
document.addEventListener("visibilitychange", () => document.hidden || renewClips());
clips.onChange(() => view.drawClips(clips.list(), store.state.job?.id));

// ---- go -----------------------------------------------------------------------------------------------------------

const limitsKnown = api.getLimits().then((limits) => store.send("limits", { limits }), () => {}); // unknown: the server checks
api.getModels().then(({ models }) => store.send("models", { models }), () => {});
view.draw(store.state);
view.drawClips(clips.list(), null);
goToAddress();
renewClips();
