// All sentences of the page come from here. English static text stands in index.html (`data-t`, `data-t-label`), the rest
// in texts/<language>.js. A text is a string with {names}, or a function of the values.

import { loudnessOf } from "./edits.js";
import de from "./texts/de.js";
import en from "./texts/en.js";

const CATALOGUES = { en, de };
const RIGHT_TO_LEFT = new Set(["ar", "fa", "he", "ur"]);
const KEY = "s2s.language";

let language = "en";
const english = new Map(); // element -> what index.html said

function wanted() {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept in CATALOGUES) return kept;
  } catch { /* storage is forbidden */ }
  return navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => tag in CATALOGUES) ?? "en";
}

/** Choose the language (default: kept or the browser's) and put it on every static text. Returns its name. */
export function speak(name = wanted()) {
  language = name;
  document.documentElement.lang = name;
  document.documentElement.dir = RIGHT_TO_LEFT.has(name) ? "rtl" : "ltr";
  for (const element of document.querySelectorAll("[data-t]")) {
    if (!english.has(element)) english.set(element, element.textContent);
    element.textContent = CATALOGUES[name].page?.[element.dataset.t] ?? english.get(element);
  }
  for (const element of document.querySelectorAll("[data-t-label]")) {
    if (!english.has(element)) english.set(element, element.getAttribute("aria-label"));
    element.setAttribute("aria-label", CATALOGUES[name].page?.[element.dataset.tLabel] ?? english.get(element));
  }
  return name;
}

export function keepLanguage(name) {
  try {
    localStorage.setItem(KEY, name);
  } catch { /* storage is forbidden */ }
}

/** "stage.mel" -> the sentence, with {values} filled in; null when the catalogue has none. */
export function say(path, values = {}) {
  const find = (catalogue) => path.split(".").reduce((texts, part) => texts?.[part], catalogue);
  const text = find(CATALOGUES[language]) ?? find(en);
  if (typeof text === "function") return text(values);
  return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "") : null;
}

export const number = (value, options) => new Intl.NumberFormat(language, options).format(value);
export const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 0 });
export const list = (items) => new Intl.ListFormat(language).format(items);

export function bytes(count) {
  const [unit, size] = count >= 1e6 ? ["megabyte", 1e6] : ["kilobyte", 1e3];
  return number(count / size, { style: "unit", unit, maximumFractionDigits: count >= 1e7 ? 0 : 1 });
}

/** 62.34 -> "1:02", with tenths "1:02.3". */
export function clock(seconds, tenths = false) {
  const whole = tenths ? Math.round(seconds * 10) / 10 : Math.round(seconds);
  if (whole < 0) return `-${clock(-whole, tenths)}`;
  const rest = number(whole % 60, { minimumIntegerDigits: 2, minimumFractionDigits: +tenths, maximumFractionDigits: +tenths });
  return `${Math.floor(whole / 60)}:${rest}`;
}

const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60]];

/** 0.5 -> "0.5 seconds", 120 -> "2 minutes", 90 -> "90 seconds", 86400 -> "1 day". */
export function span(seconds) {
  const [unit, length] = UNITS.find(([, size]) => seconds >= size && seconds % size === 0) ?? ["second", 1];
  const value = seconds / length;
  return number(value, { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 1 });
}

export function when(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return "";
  const here = navigator.languages.find((tag) => tag.split("-")[0] === language) ?? language; // en-GB: day before month
  return new Intl.DateTimeFormat(here, { dateStyle: "medium", timeStyle: "short" }).format(date);
}

/** "drum_hit" -> "drum hit": names of categories are the bundle's, only their spelling is made readable. */
export const kind = (name) => say(`kinds.${name}`) ?? String(name).replaceAll("_", " ");

/** {time_s, kind, strength, confidence} -> "drum hit, loud, sure". */
export function eventWords({ kind: name, strength, confidence }) {
  const surety = confidence < 0.4 ? "guess" : confidence < 0.7 ? "likely" : "sure";
  return [kind(name), say(`loudness.${loudnessOf(strength)}`), say(`surety.${surety}`)].join(", ");
}

/** A problem, the browser's own refusal or the server's, as {title, detail, hint, request}. */
export function problemWords(problem, limits) {
  const code = problem?.code ?? "unexpected";
  const values = { ...problemValues(problem ?? {}, limits) };
  const known = say(`problems.${code}.title`, values);
  const generic = "problems.unexpected";
  return {
    title: known ?? problem?.title ?? say(`${generic}.title`),
    detail: (known ? say(`problems.${code}.detail`, values) : problem?.detail) || "",
    hint: (known ? say(`problems.${code}.hint`, values) : problem?.hint) || say(`${generic}.hint`),
    request: problem?.request_id && (!known || OURS.has(code)) ? say("request", { id: problem.request_id }) : "",
  };
}

const OURS = new Set(["internal", "processing_failed", "bad_artifact", "unexpected", "upstream_failed", "worker_lost",
  "upstream_timeout"]); // worth reporting, so the request id is shown

function problemValues(problem, limits) {
  return {
    detail: problem.detail ?? "",
    until: problem.until ? when(problem.until) : "",
    size: problem.bytes ? bytes(problem.bytes) : "",
    duration: problem.duration_s !== undefined ? clock(problem.duration_s, true) : "",
    picture: problem.width ? `${problem.width} × ${problem.height}` : "",
    maxSize: limits ? bytes(limits.max_bytes) : "",
    maxDuration: limits ? span(limits.max_duration_s) : "",
    minDuration: limits ? span(limits.min_duration_s) : "",
    maxSide: limits ? number(limits.max_long_side_px) : "",
  };
}
