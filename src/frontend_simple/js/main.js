// Starts the page: ties state (job.js), drawing (view.js) and network (api.js) together. READ FIRST.

import * as api from "./api.js";
import { checkFile } from "./check.js";
import * as clips from "./clips.js";
import { createStore, TERMINAL } from "./job.js";
import { peaksOf } from "./strip.js";
import { createView } from "./view.js";
import { keepLanguage, say, speak } from "./words.js";

const store = createStore();
const hook = (name) => document.querySelector(`[data-${name}]`);
hook("language").value = speak();
const view = createView();

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
  await limitsKnown;
  const { facts, refusal } = await checkFile(file, preview, store.state.limits);
  if (store.state.file !== file) return;
  store.send("checked", { file, facts, refusal });
  if (store.state.phase === "ready") view.show(facts.playable ? preview : null, { muted: true, why: say("noPreview") });
}

function leaveJob() {
  stopFollowing();
  stopListening?.abort();
  view.show(null);
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
    const job = await api.createJob(file, { ...options, key },
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
    if (job?.state) store.send("heard", { job });
  } catch (error) {
    if (error.status === 0) store.send("connection", { connected: false });
    follow(id); // whatever came of it, the job itself knows
  }
}

/** After an upload whose answer was lost the same key is sent again, so that one press never makes two jobs. */
function retry() {
  const { problem, key } = store.state;
  generate(problem?.code === "unreachable" ? key : undefined);
}

/** The same picture with the next seed. After a reload the picture comes from the result: it is the original's. */
async function anotherTake() {
  const { job } = store.state;
  let { file } = store.state;
  const options = { category: job.options?.category ?? "", seed: (job.report?.seed ?? 0) + 1 };
  if (!file) {
    try {
      const blob = await api.getResult(job.id);
      file = new File([blob], job.filename ?? "clip.mp4", { type: blob.type });
    } catch (error) {
      return store.send("gone", { id: job.id, phase: "failed", problem: error.problem ?? { code: "unreachable" } });
    }
    store.send("chose", { file });
    preview = URL.createObjectURL(file);
    store.send("checked", { file, ...(await checkFile(file, preview, store.state.limits)) });
  }
  store.send("optioned", { options });
  generate();
}

// ---- the result ---------------------------------------------------------------------------------------------------

async function showResult(job) {
  const url = api.resultUrl(job.id);
  view.show(url);
  view.setDownload(url, resultName(job));
  hook("file").value = "";
  document.querySelector("#with-sound").checked = true;
  stopListening = new AbortController();
  try {
    view.setPeaks(await peaksOf(await api.getResult(job.id, stopListening.signal)));
  } catch { /* the strip stays flat, with its marks; the video itself tells if it cannot play */ }
}

function resultName({ filename = "clip.mp4" }) {
  const dot = filename.lastIndexOf(".");
  const [stem, suffix] = dot > 0 ? [filename.slice(0, dot), filename.slice(dot + 1).toLowerCase()] : [filename, ""];
  return `${stem}-with-sound.${suffix === "webm" ? "webm" : "mp4"}`;
}

function jump(time_s) {
  view.video.currentTime = Math.max(0, time_s - 0.15); // a little before, so that the sound has its start
  view.video.play().catch(() => {});
}

// ---- the address --------------------------------------------------------------------------------------------------

const addressed = () => new URLSearchParams(location.hash.slice(1)).get("job") ?? new URLSearchParams(location.search).get("job");

function setAddress(id) {
  if ((addressed() ?? "") === id) return;
  history.pushState(null, "", id ? `#job=${encodeURIComponent(id)}` : location.pathname);
}

function goToAddress() {
  const id = addressed();
  if (id === (store.state.job?.id ?? null)) return;
  stopUpload?.abort();
  leaveJob();
  if (!id) return store.send("startOver");
  store.send("attaching", { id });
  view.show(null, { why: say("noPictureYet") });
  follow(id);
}

const KEPT = new Set([...TERMINAL, "queued", "running", "canceling"]); // what goes into "My clips"

// ---- drawing follows the state ------------------------------------------------------------------------------------

store.subscribe((state, before) => {
  view.draw(state, before);
  const { job } = state;
  const moved = state.phase !== before.phase || job?.id !== before.job?.id;
  if (state.phase === "succeeded" && moved) showResult(job);
  if (moved && ["failed", "canceled", "expired", "missing"].includes(state.phase) && !preview) view.show(null);
  if (moved && KEPT.has(state.phase) && job) {
    const { id, filename, created_at, report } = job;
    clips.remember({ id, filename, created_at, state: state.phase, seed: report?.seed });
  }
  if (moved) view.drawClips(clips.list(), job?.id);
});

async function renewClips() {
  for (const clip of clips.list().filter(({ id, state }) => !TERMINAL.has(state) && id !== store.state.job?.id)) {
    try {
      const { id, filename, state } = await api.getJob(clip.id);
      clips.remember({ id, filename, state });
    } catch (error) {
      if (error.status === 404 || error.status === 410) clips.remember({ id: clip.id, state: "expired" });
    }
  }
  view.drawClips(clips.list(), store.state.job?.id);
}

// ---- people -------------------------------------------------------------------------------------------------------

const actions = {
  "start-over": startOver, "choose-other": () => hook("file").click(), generate: () => generate(), cancel, retry,
  "another-take": anotherTake, "all-events": () => view.showAllEvents(store.state),
};

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-action], [data-at], [data-forget]");
  if (!pressed || event.metaKey || event.ctrlKey) return;
  const { action, at, forget } = pressed.dataset;
  if (action) {
    event.preventDefault();
    actions[action]();
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

for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => choose(await api.sample(button.dataset.sample)));
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
view.seek.addEventListener("input", () => {
  view.video.currentTime = Number(view.seek.value);
  view.drawHead();
});

window.addEventListener("popstate", goToAddress);
window.addEventListener("hashchange", goToAddress);
window.addEventListener("beforeunload", (event) => stopUpload && event.preventDefault());
clips.onChange(() => view.drawClips(clips.list(), store.state.job?.id));

// ---- go -----------------------------------------------------------------------------------------------------------

const limitsKnown = api.getLimits().then((limits) => store.send("limits", { limits }), () => {}); // unknown: the server checks
api.getModels().then(({ models }) => store.send("models", { models }), () => {});
view.draw(store.state);
view.drawClips(clips.list(), null);
goToAddress();
renewClips();
