// The tab where a result is changed: time and volume of all its sound, and its moments, each with fields for the keyboard.

import { changes, GAIN_DB, heardAt, isChanged, loudnessOf, OFFSET_MS, STRENGTHS, withChange, withMoment, withoutMoment } from "./edits.js";
import { clock, number, say } from "./words.js";

const hook = (name) => document.querySelector(`[data-${name}]`);
const action = (name) => document.querySelector(`[data-action=${name}]`);

/** onEdit(edits) hears of every change, onPlay(time_s) of a wish to hear a moment, tell(words) speaks to readers. */
export function createAdjust({ onEdit, onPlay, tell }) {
  const rows = new Map(); // key -> {row, time, loudness, play, remove}
  let state = null;
  let now_s = 0;

  for (const [name, range] of [["offset", OFFSET_MS], ["gain", GAIN_DB]]) {
    for (const [limit, value] of Object.entries(range)) hook(name)[limit] = value;
  }
  hook("offset").addEventListener("input", (event) => onEdit({ offset_ms: event.target.valueAsNumber }));
  hook("gain").addEventListener("input", (event) => onEdit({ gain_db: event.target.valueAsNumber }));
  action("add-moment").addEventListener("click", () => {
    const { key, moments } = withMoment(state.edits, now_s);
    onEdit({ moments });
    rows.get(key).time.focus();
  });

  const duration = () => state.job.report?.duration_s ?? 1;
  const clamp = (time_s) => Math.min(duration(), Math.max(0, time_s));

  function makeRow(key) {
    const row = document.createElement("li");
    const time = Object.assign(document.createElement("input"), { type: "number", step: 0.01, min: 0, inputMode: "decimal" });
    const unit = document.createElement("span");
    unit.textContent = "s";
    unit.setAttribute("aria-hidden", "true");
    const loudness = document.createElement("select");
    const play = Object.assign(document.createElement("button"), { type: "button", className: "button small" });
    const remove = Object.assign(document.createElement("button"), { type: "button", className: "button small" });
    time.addEventListener("input", () => {
      if (time.validity.valid && time.value !== "") onEdit(withChange(state.edits, key, { heard_s: time.valueAsNumber }));
    });
    time.addEventListener("blur", () => draw(state));
    loudness.addEventListener("change", () => onEdit(withChange(state.edits, key, { strength: STRENGTHS[loudness.value] })));
    play.addEventListener("click", () => onPlay(heardAt(state.edits, state.edits.moments.find((moment) => moment.key === key))));
    remove.addEventListener("click", () => {
      const beside = row.nextElementSibling ?? row.previousElementSibling;
      onEdit(withoutMoment(state.edits, key));
      (beside?.lastElementChild ?? action("add-moment")).focus();
      tell(say("momentGone", { count: state.edits.moments.length }));
    });
    row.append(time, unit, loudness, play, remove);
    const made = { row, time, loudness, play, remove };
    rows.set(key, made);
    return made;
  }

  function drawRow({ time, loudness, play, remove }, moment) {
    const heard_s = heardAt(state.edits, moment);
    const at = { time: clock(heard_s, true) };
    time.max = duration();
    if (document.activeElement !== time) time.value = heard_s.toFixed(2);
    time.setAttribute("aria-label", say("momentTime"));
    if (loudness.lang !== document.documentElement.lang) {
      loudness.lang = document.documentElement.lang;
      loudness.replaceChildren(...Object.keys(STRENGTHS).map((name) => new Option(say(`loudness.${name}`), name)));
    }
    loudness.value = loudnessOf(moment.strength);
    loudness.setAttribute("aria-label", say("momentLoudness", at));
    play.textContent = say("play");
    play.setAttribute("aria-label", say("playFrom", at));
    remove.textContent = say("remove");
    remove.setAttribute("aria-label", say("removeNamed", at));
  }

  function draw(given) {
    state = given;
    const { job, edits } = state;
    if (!edits) return;
    hook("offset").value = edits.offset_ms;
    hook("gain").value = edits.gain_db;
    const offset = say("offsetValue", { ms: edits.offset_ms, size: number(Math.abs(edits.offset_ms)) });
    const gain = say("gainValue", { size: number(edits.gain_db, { signDisplay: "exceptZero" }) });
    for (const [name, words] of [["offset", offset], ["gain", gain]]) {
      hook(`${name}-out`).textContent = words;
      hook(name).setAttribute("aria-valuetext", words);
    }
    const keys = edits.moments.map((moment) => moment.key);
    for (const [key, { row }] of rows) {
      if (keys.includes(key)) continue;
      row.remove();
      rows.delete(key);
    }
    const list = hook("moments");
    edits.moments.forEach((moment, i) => {
      const made = rows.get(moment.key) ?? makeRow(moment.key);
      if (list.children[i] !== made.row) list.insertBefore(made.row, list.children[i] ?? null);
      drawRow(made, moment);
    });
    hook("moments-line").textContent = say("moments", { count: edits.moments.length });
    const changed = isChanged(job, edits);
    action("render").disabled = !changed;
    action("drop-edits").disabled = !changed;
    hook("moments").classList.toggle("changed", changes(job, edits).moments);
    now(now_s);
  }

  function now(time_s) {
    now_s = time_s;
    if (state) action("add-moment").textContent = say("addMoment", { time: clock(time_s, true) });
  }

  return {
    draw, now,
    /** A mark was dragged. */
    move: (key, heard_s) => onEdit(withChange(state.edits, key, { heard_s: clamp(heard_s) })),
  };
}
