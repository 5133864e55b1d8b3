// What a person changes about a result before it is made again. Pure: a job goes in, edits or wishes come out.
//
// A moment's `time_s` is where it would sound without any shift; it is heard `offset_ms` later. The report tells where
// things are heard, so the shift that a result was made with is taken off here and put back where times are shown.

export const OFFSET_MS = { min: -500, max: 500, step: 10 };
export const GAIN_DB = { min: -24, max: 12, step: 1 };
const NEW_STRENGTH = 0.7;
export const STRENGTHS = { soft: 0.2, medium: 0.5, loud: 0.85 }; // what each word stands for when it is chosen

export const loudnessOf = (strength) => (strength < 0.34 ? "soft" : strength < 0.67 ? "medium" : "loud");
export const heardAt = (edits, moment) => moment.time_s + edits.offset_ms / 1000;
const milli = (seconds) => Math.round(seconds * 1000) / 1000;

/** Job -> {offset_ms, gain_db, moments: [{key, time_s, strength}]}, nothing changed yet. */
export function editsOf(job) {
  const offset_ms = job.options?.offset_ms ?? 0;
  const moments = (job.report?.events ?? []).map((event, key) =>
    ({ key, time_s: event.time_s - offset_ms / 1000, strength: event.strength }));
  return { offset_ms, gain_db: job.options?.gain_db ?? 0, moments };
}

const told = (moments) => moments.map(({ time_s, strength }) => ({ time_s: Math.max(0, milli(time_s)), strength }))
  .sort((one, other) => one.time_s - other.time_s);
const same = (one, other) => JSON.stringify(told(one)) === JSON.stringify(told(other));

export function changes(job, edits) {
  const before = editsOf(job);
  return {
    offset: edits.offset_ms !== before.offset_ms, gain: edits.gain_db !== before.gain_db,
    moments: !same(edits.moments, before.moments),
  };
}

export const isChanged = (job, edits) => Object.values(changes(job, edits)).some(Boolean);

/** All that the new sound shall be: as this job was asked for, with the changes. Moments only where a person placed them. */
export function wishesOf(job, edits, seed = job.report?.seed ?? job.options?.seed ?? 0) {
  const { category = null, events = null } = job.options ?? {};
  const { offset_ms, gain_db } = edits;
  return { seed, category, offset_ms, gain_db, events: changes(job, edits).moments ? told(edits.moments) : events };
}

/** Of these wishes, what this job was not asked for already: a retake keeps the rest. */
export function differing(job, wishes) {
  const had = { seed: 0, category: null, offset_ms: 0, gain_db: 0, events: null, ...job.options };
  return Object.fromEntries(Object.entries(wishes).filter(([name, wish]) => JSON.stringify(wish) !== JSON.stringify(had[name])));
}

export function withMoment(edits, heard_s) {
  const key = 1 + Math.max(-1, ...edits.moments.map((moment) => moment.key));
  const moments = [...edits.moments, { key, time_s: Math.max(0, milli(heard_s - edits.offset_ms / 1000)), strength: NEW_STRENGTH }];
  return { key, moments: moments.sort((one, other) => one.time_s - other.time_s) };
}

export const withoutMoment = (edits, key) => ({ moments: edits.moments.filter((moment) => moment.key !== key) });

/** `change`: {heard_s} or {strength}. */
export function withChange(edits, key, { heard_s, strength }) {
  const made = heard_s === undefined ? { strength } : { time_s: Math.max(0, heard_s - edits.offset_ms / 1000) };
  return { moments: edits.moments.map((moment) => (moment.key === key ? { ...moment, ...made } : moment)) };
}
