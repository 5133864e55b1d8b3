// Draws the state. Reads nothing back from the page and knows no network; people's text goes in by textContent only.

import { createAdjust } from "./adjust.js";
import { isExpired } from "./clips.js";
import { heardAt } from "./edits.js";
import * as jobs from "./job.js";
import { createStrip, swell } from "./strip.js";
import { createTabs } from "./tabs.js";
import { bytes, clock, eventWords, kind, list, number, percent, problemWords, say, span, when } from "./words.js";

const FIRST_EVENTS = 12;
// Notes of the server that the line about the events says in the person's language.
const MOVED_OUT = "The offset moved every event out of the clip.";
const ROOM_TONE = "No event was found in the picture; the sound is quiet room tone.";
const WORKING = new Set(["attaching", "asking", "uploading", "queued", "running", "canceling"]);
const hook = (name) => document.querySelector(`[data-${name}]`);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** on: onEdit(edits), onSeek(time_s), onPlay(time_s). */
export function createView(on) {
  const video = hook("video");
  const seek = hook("seek");
  const captions = createCaptions(video);
  const adjust = createAdjust({ onEdit: on.onEdit, onPlay: on.onPlay, tell });
  const strip = createStrip(hook("strip"), hook("marks"), { onPress: on.onSeek, onMove: adjust.move });
  let tab = "heard";
  let latest = null; // the state that was drawn last
  const tabs = createTabs(hook("tabs"), (name) => {
    tab = name;
    if (latest) drawStrip(latest);
  });
  let showAll = false;
  let peaks = null;
  let announced = ""; // the last stage or quarter that was spoken
  let told = "";

  // ---- the whole page -------------------------------------------------------------------------------------------

  function draw(state, before) {
    const { phase } = state;
    document.body.dataset.phase = phase;
    for (const part of document.querySelectorAll("[data-show]")) part.hidden = !part.dataset.show.split(" ").includes(phase);
    latest = state;
    if (before && state.job?.id !== before.job?.id) {
      showAll = false;
      captions.clear();
      peaks = null;
      hook("spectrogram").hidden = true;
      tabs.showFirst();
    }
    for (const part of document.querySelectorAll("[data-owner]")) part.hidden = state.shared !== null;
    for (const part of document.querySelectorAll("[data-guest]")) part.hidden = state.shared === null;
    drawLimits(state.limits);
    if (phase === "checking") hook("limits").textContent = say("checking", { name: state.file.name });
    if (phase === "refused") drawRefusal(state);
    if (phase === "ready") {
      drawReady(state);
      if (state.models !== before?.models || phase !== before?.phase) drawOptions(state);
    }
    if (WORKING.has(phase)) drawWork(state);
    if (phase === "succeeded") drawResult(state, !before || before.job !== state.job);
    if (["failed", "canceled", "expired", "missing"].includes(phase)) drawProblem(state);
    drawStrip(state);
    document.title = titleOf(state);
    speakUp(state, before);
    if (before && phase !== before.phase) moveFocus(phase, before.phase);
  }

  function titleOf(state) {
    const shown = say(`title.${state.phase}`, {
      name: nameOf(state), percent: percent(jobs.fractionOf(state) ?? 0), stage: say(`stage.${state.progress?.stage}`) ?? "",
    });
    return shown ? `${shown} · Silence to Sound` : "Silence to Sound";
  }

  const nameOf = (state) => state.facts?.name ?? state.job?.filename ?? "";

  function drawLimits(limits) {
    const text = limits
      ? say("limits", {
        maxSize: bytes(limits.max_bytes), minDuration: span(limits.min_duration_s),
        maxDuration: span(limits.max_duration_s), maxSide: number(limits.max_long_side_px),
      })
      : say("limitsUnknown");
    for (const place of document.querySelectorAll("[data-limits]")) place.textContent = text;
  }

  function drawOptions({ models, options }) {
    const names = [...new Set((models ?? []).flatMap((model) => model.categories))];
    const choice = hook("category");
    choice.replaceChildren(element("option", say("categoryAuto"), { value: "" }),
      ...names.map((name) => element("option", kind(name), { value: name })));
    choice.value = options.category;
    hook("seed").value = options.seed;
  }

  function drawRefusal({ refusal, limits }) {
    const words = problemWords(refusal, limits);
    hook("refusal-title").textContent = words.title;
    hook("refusal-hint").textContent = words.hint;
  }

  function drawReady({ facts, limits }) {
    hook("ready-name").textContent = facts.name;
    const rows = facts.playable
      ? [["length", clock(facts.duration_s, true)], ["picture", `${facts.width} × ${facts.height}`], ["size", bytes(facts.bytes)]]
      : [["length", say("facts.unknown")], ["size", bytes(facts.bytes)]];
    hook("facts").replaceChildren(...rows.map(([name, value]) => {
      const row = element("div");
      row.append(element("dt", say(`facts.${name}`)), element("dd", value));
      return row;
    }));
    const plan = facts.playable ? say("plan", { duration: clock(facts.duration_s, true) }) : say("planUnknown");
    const kept_s = limits?.retention_s ?? limits?.result_ttl_s;
    hook("plan").textContent = kept_s ? `${plan} ${say("planKept", { time: span(kept_s) })}` : plan;
  }

  // ---- while it works -------------------------------------------------------------------------------------------

  function drawWork(state) {
    const { phase, upload, queue, progress } = state;
    hook("work-title").textContent = say(`work.${phase}`);
    hook("work-line").textContent = workLine(phase, upload, queue, progress);
    const share = jobs.fractionOf(state);
    const bar = hook("bar");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share * 100;
    hook("percent").textContent = share === null ? "" : percent(share);
    hook("lost").hidden = state.connected;
    drawStages(phase, progress);
    document.querySelector("[data-action=cancel]").disabled = ["canceling", "attaching", "asking"].includes(phase);
  }

  function workLine(phase, upload, queue, progress) {
    if (phase === "uploading") {
      if (upload.loaded >= upload.total) return say("sentAll");
      return say("sent", { loaded: bytes(upload.loaded), total: bytes(upload.total) });
    }
    if (phase === "queued") {
      const place = Number.isFinite(queue?.position) ? say("position", { ahead: Math.max(0, queue.position - 1) }) : "";
      const eta = queue?.eta_s > 0 ? say("eta", { time: span(Math.ceil(queue.eta_s)) }) : "";
      return [place, eta].filter(Boolean).join(" ");
    }
    return phase === "running" && progress ? say(`stage.${progress.stage}`) ?? "" : "";
  }

  function drawStages(phase, progress) {
    const rows = hook("stages");
    rows.hidden = phase !== "running" && !(phase === "canceling" && progress);
    if (rows.hidden) return;
    const now = jobs.STAGES.indexOf(progress?.stage);
    rows.replaceChildren(...jobs.STAGES.map((stage, i) => {
      const state = i < now ? "done" : i === now ? "now" : "later";
      const row = element("li", undefined, { "data-state": state });
      if (state === "now") row.setAttribute("aria-current", "step");
      row.append(element("span", say(`stage.${stage}`)), element("span", `(${say(`stageState.${state}`)})`, { class: "for-readers" }));
      if (state === "now" && progress.total > 1) {
        const count = { step: number(progress.step), total: number(progress.total) };
        row.append(element("span", say(`units.${stage}`, count) ?? say("count", count), { class: "count" }));
      }
      return row;
    }));
  }

  // ---- the result -----------------------------------------------------------------------------------------------

  function drawResult(state, fresh) {
    const { job } = state;
    const report = job.report ?? {};
    const events = report.events ?? [];
    hook("result-title").textContent = say(state.shared ? "resultShared" : "result");
    hook("kept").textContent = job.expires_at ? say("kept", { when: when(job.expires_at) }) : "";
    const known = { name: job.filename ?? nameOf(state), seed: number(report.seed ?? 0), kind: report.category && kind(report.category) };
    const sure = report.category_confidence;
    hook("result-line").textContent = !report.category ? say("resultLine", known)
      : Number.isFinite(sure)
        ? say("resultKind", { ...known, surety: say(`surety.${sure < 0.4 ? "guess" : sure < 0.7 ? "likely" : "sure"}`) })
        : say("resultKindChosen", known);
    drawEvents(events, report.notes?.includes(MOVED_OUT));
    const notes = (report.notes ?? []).filter((note) => note !== MOVED_OUT && note !== ROOM_TONE);
    hook("notes").hidden = notes.length === 0;
    hook("notes").replaceChildren(...notes.map((note) => element("li", note)));
    seek.max = report.duration_s ?? video.duration ?? 1;
    if (fresh) captions.fill(events, report.duration_s);
    adjust.draw(state);
    drawShare(state);
    document.querySelector("[data-action=copy-words]").dataset.words = [hook("result-line").textContent, hook("events-line").textContent,
      ...events.map((event) => `${clock(event.time_s, true)} ${eventWords(event)}`), ...notes].join("\n");
  }

  function drawShare({ share }) {
    hook("share-line").textContent = share
      ? say("shareOn", { when: share.expires_at ? when(share.expires_at) : "" }) : say("shareOff");
    hook("link").hidden = !share;
    hook("share-link").value = share ? new URL(share.url, document.baseURI).href : "";
    document.querySelector("[data-action=share]").hidden = Boolean(share);
  }

  function drawEvents(events, movedOut = false) {
    const counts = new Map();
    for (const event of events) counts.set(event.kind, (counts.get(event.kind) ?? 0) + 1);
    const kinds = list([...counts].map(([name, count]) => say("kindCount", { count: number(count), kind: kind(name) })));
    hook("events-line").textContent = events.length ? say("events", { count: events.length, kinds })
      : say(movedOut ? "eventsOut" : "eventsNone");
    const shown = showAll ? events : events.slice(0, FIRST_EVENTS);
    hook("events").replaceChildren(...shown.map((event) => {
      const words = eventWords(event);
      const button = element("button", undefined, { type: "button", "data-at": event.time_s });
      button.setAttribute("aria-label", say("jump", { time: clock(event.time_s, true), words }));
      button.append(element("span", clock(event.time_s, true), { class: "at" }), element("span", words));
      const row = element("li");
      row.append(button);
      return row;
    }));
    const more = document.querySelector("[data-action=all-events]");
    more.hidden = shown.length === events.length;
    more.textContent = say("allEvents", { count: number(events.length) });
  }

  function drawProblem({ phase, problem, file, limits, job, ask, shared, until }) {
    const code = { canceled: file || job ? "canceled" : "canceledAway", expired: "gone", missing: shared ? "share_gone" : "not_found" }[phase];
    const words = problemWords(code ? { ...problem, code, until } : problem, limits);
    hook("problem-title").textContent = words.title;
    hook("problem-detail").textContent = words.detail;
    hook("problem-hint").textContent = words.hint;
    hook("problem-request").textContent = words.request;
    document.querySelector("[data-action=retry]").hidden = !file && !((phase === "failed" || phase === "canceled") && (job || ask));
  }

  // ---- the strip ------------------------------------------------------------------------------------------------

  function drawStrip(state) {
    const { phase, job, facts } = state;
    const share = jobs.fractionOf(state) ?? 0;
    const done = phase === "succeeded";
    const duration = done ? job.report?.duration_s : facts?.duration_s;
    seek.hidden = !done;
    if (done) drawHead();
    else strip.draw(phase === "uploading" ? null : swell(share), share);
    const moving = tab === "adjust" && state.edits;
    strip.mark(!done || !duration ? [] : moving
      ? state.edits.moments.map((moment) => ({ key: moment.key, time_s: heardAt(state.edits, moment) }))
      : (job.report.events ?? []).map((event, key) => ({ key, time_s: event.time_s })), duration, Boolean(moving));
    hook("tick-left").textContent = duration ? clock(0) : "";
    hook("tick-middle").textContent = duration ? clock(duration / 2, true) : "";
    hook("tick-right").textContent = duration ? clock(duration, true) : "";
  }

  /** The played part of the waveform is lit; called while the video plays too. */
  function drawHead() {
    const duration = Number(seek.max) || 1;
    seek.value = video.currentTime;
    const near = latest?.job?.report?.events?.find((event) => Math.abs(event.time_s - video.currentTime) < 0.05);
    seek.setAttribute("aria-valuetext", [say("valueText", { time: clock(video.currentTime, true), duration: clock(duration, true) }),
      near && eventWords(near)].filter(Boolean).join(": "));
    adjust.now(video.currentTime);
    strip.draw(peaks, video.currentTime / duration);
  }

  // ---- the screen -----------------------------------------------------------------------------------------------

  /** Show the video at `url`, muted when it is only the preview; null shows none and says `why`. */
  function show(url, { muted = false, why = "" } = {}) {
    video.pause();
    video.hidden = !url;
    video.muted = muted;
    if (url) video.src = url;
    else if (video.hasAttribute("src")) {
      video.removeAttribute("src");
      video.load();
    }
    hook("no-picture").hidden = Boolean(url) || !why;
    hook("no-picture").textContent = why;
  }

  // ---- words for readers ----------------------------------------------------------------------------------------

  /** One polite sentence at stage changes and quarters, never for every step. */
  function speakUp(state, before) {
    const { phase, progress } = state;
    let mark = phase;
    let words = say(`work.${phase}`) ?? "";
    if (phase === "running" && progress) {
      const quarter = Math.floor(progress.fraction * 4) * 25;
      mark = `${progress.stage} ${quarter}`;
      const [spokenStage, spokenQuarter] = announced.split(" ");
      const parts = [];
      if (spokenStage !== progress.stage) parts.push(say(`stage.${progress.stage}`) ?? "");
      if (quarter > 0 && spokenQuarter !== String(quarter)) parts.push(say("announce.quarter", { percent: percent(quarter / 100) }));
      words = parts.join(", ");
    } else if (phase === "uploading") {
      const quarter = Math.floor((jobs.fractionOf(state) ?? 0) * 4) * 25;
      mark = `uploading ${quarter}`;
      if (quarter) words = say("announce.quarter", { percent: percent(quarter / 100) });
    } else if (phase === "queued") words = `${words}. ${workLine(phase, null, state.queue)}`;
    else if (phase === "checking") words = say("checking", { name: state.file.name });
    else if (phase === "ready") words = say("ready", { name: state.facts.name });
    else if (phase === "succeeded") words = say("result");
    else if (["failed", "canceled", "expired", "missing"].includes(phase)) words = hook("problem-title").textContent;
    else if (phase === "refused") words = hook("refusal-title").textContent;
    if (before && before.connected !== state.connected) tell(say(state.connected ? "announce.found" : "announce.lost"));
    else if (mark !== announced && words) tell(words);
    announced = mark;
  }

  function tell(words) {
    if (words === told) return;
    told = words;
    hook("status").textContent = words;
  }

  /** Focus goes where the work went, unless the person is busy elsewhere on the page. */
  function moveFocus(phase, was) {
    const here = document.activeElement;
    const free = phase === "attaching" || !here || here === document.body || here.closest("[hidden]") || here.closest("[data-show]") || here.disabled;
    if (!free) return;
    const target = {
      ready: document.querySelector("[data-action=generate]"), refused: hook("refusal-title"), uploading: hook("work-title"),
      attaching: hook("work-title"), asking: hook("work-title"), succeeded: hook("result-title"), failed: hook("problem-title"),
      canceled: hook("problem-title"), expired: hook("problem-title"), missing: hook("problem-title"), idle: hook("file"),
    }[phase] ?? (was === "attaching" || here?.closest("[hidden]") ? hook("work-title") : null);
    target?.focus();
  }

  // ---- my clips -------------------------------------------------------------------------------------------------

  function drawClips(clips, currentId) {
    const list = hook("clip-list");
    const held = list.contains(document.activeElement) ? document.activeElement : null; // whoever is there stays there
    const heldId = held?.closest("li").dataset.clip;
    hook("clips").hidden = clips.length === 0;
    list.replaceChildren(...clips.map((clip) => {
      const row = element("li", undefined, { "data-clip": clip.id });
      const gone = isExpired(clip);
      const state = gone ? say("clip.expired") : say(`clip.${clip.state}`) ?? clip.state ?? "";
      const until = !clip.expires_at ? when(clip.created_at)
        : gone ? when(clip.expires_at) : say("clipKept", { when: when(clip.expires_at) });
      const link = element("a", undefined, { href: `#job=${encodeURIComponent(clip.id)}` });
      if (clip.id === currentId) link.setAttribute("aria-current", "true");
      link.append(element("span", clip.filename || clip.id, { class: "name" }),
        element("span", [state, clip.seed ? say("clipTake", { seed: clip.seed }) : "", until].filter(Boolean).join(" · "),
          { class: "meta" }));
      const forget = element("button", say("forget"), { type: "button", class: "button small", "data-forget": clip.id });
      forget.setAttribute("aria-label", say("forgetNamed", { name: clip.filename || clip.id }));
      row.append(link, forget);
      return row;
    }));
    const row = held && [...list.children].find((each) => each.dataset.clip === heldId);
    row?.querySelector(held.matches("button") ? "button" : "a").focus({ preventScroll: true });
  }

  return {
    draw, drawClips, drawHead, show, tell, video, seek,
    /** BARS levels of the sound. */
    setPeaks(found) {
      peaks = found;
      drawHead();
    },
    setSpectrogram(url) {
      const picture = hook("spectrogram");
      picture.onload = () => { picture.hidden = latest?.phase !== "succeeded"; };
      picture.src = url;
    },
    setCode(text) {
      hook("code").textContent = text;
    },
    setShareProblem(problem) {
      hook("share-problem").textContent = problem ? [problemWords(problem).title, problemWords(problem).hint].join(". ") : "";
    },
    showAllEvents(state) {
      showAll = true;
      drawEvents(state.job.report?.events ?? []);
      document.querySelectorAll("[data-at]")[FIRST_EVENTS]?.focus();
    },
    /** files: {download: [url, filename], "download-sound": ..., "download-copy": ...}; what is not named is not offered. */
    setDownloads(files) {
      for (const name of ["download", "download-sound", "download-copy"]) {
        const link = hook(name);
        link.hidden = !files[name];
        if (files[name]) [link.href, link.download] = files[name];
      }
      hook("copy-note").hidden = !files["download-copy"];
    },
  };
}

/** The events as captions of the video: whoever does not hear it reads "[drum hit, loud]" where it sounds. */
function createCaptions(video) {
  let track = null;
  return {
    clear() {
      if (track) this.fill([]);
    },
    fill(events, duration_s) {
      track ??= video.addTextTrack("captions", say("captions"), document.documentElement.lang);
      const mode = track.mode === "disabled" ? "hidden" : track.mode;
      track.mode = "hidden"; // a disabled track has no cues
      for (const cue of [...(track.cues ?? [])]) track.removeCue(cue);
      events.forEach((event, i) => {
        const end_s = Math.min(event.time_s + 1.2, events[i + 1]?.time_s ?? duration_s ?? Infinity);
        track.addCue(new VTTCue(event.time_s, Math.max(event.time_s + 0.2, end_s), `[${eventWords(event)}]`));
      });
      track.mode = mode;
    },
  };
}
