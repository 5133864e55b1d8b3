// The strip under the picture: a flat line that becomes sound, a spectrogram under it, the events marked on both. To
// assistive technology it is one slider and the event list; levels and marks are true (samples, reported events).

const SVG = "http://www.w3.org/2000/svg";
export const BARS = 96;
const WIDTH = 960;

/**
 * svg: the line; marks: the layer of marks above it. A mark that is pressed calls onPress(time_s); where marks may be
 * moved, dragging one calls onMove(key, time_s). Both are for the pointer: keys have the slider and the fields.
 */
export function createStrip(svg, marks, { onPress, onMove }) {
  const bars = Array.from({ length: BARS }, (_, i) => {
    const bar = document.createElementNS(SVG, "line");
    const x = (i + 0.5) * (WIDTH / BARS);
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", 8], ["y2", 92]]) bar.setAttribute(name, value);
    bar.classList.add("bar");
    return bar;
  });
  svg.append(...bars);
  let shown = []; // {key, time_s} of every mark
  let duration_s = 1;
  let movable = false;
  let held = null; // the mark under the pointer: {key, from_x, moved}

  const indexOf = (event) => [...marks.children].indexOf(event.target.closest(".mark"));
  marks.addEventListener("pointerdown", (event) => {
    const at = shown[indexOf(event)];
    if (!at || event.button) return;
    event.preventDefault();
    marks.setPointerCapture(event.pointerId);
    held = { ...at, from_x: event.clientX, moved: false };
  });
  marks.addEventListener("pointermove", (event) => {
    if (!held || !movable || (!held.moved && Math.abs(event.clientX - held.from_x) < 4)) return;
    held.moved = true;
    const away_s = ((event.clientX - held.from_x) / marks.clientWidth) * duration_s;
    onMove(held.key, Math.min(duration_s, Math.max(0, held.time_s + away_s)));
  });
  marks.addEventListener("pointerup", () => {
    if (held && !held.moved) onPress(held.time_s);
    held = null;
  });
  marks.addEventListener("pointercancel", () => { held = null; });

  return {
    /** levels: BARS numbers 0 .. 1; lit: share of the bars, from the start, that are in colour. */
    draw(levels, lit) {
      bars.forEach((bar, i) => {
        bar.style.transform = `scaleY(${Math.max(0.012, levels?.[i] ?? 0).toFixed(3)})`;
        bar.classList.toggle("lit", i < lit * BARS);
      });
    },
    /** at: [{key, time_s}] of the events in a clip of `length_s` seconds. */
    mark(at, length_s, canMove = false) {
      [shown, duration_s, movable] = [at, length_s || 1, canMove];
      marks.classList.toggle("movable", canMove);
      while (marks.children.length > at.length) marks.lastChild.remove();
      while (marks.children.length < at.length) {
        const mark = document.createElement("span");
        mark.classList.add("mark");
        marks.append(mark);
      }
      at.forEach(({ time_s }, i) => { marks.children[i].style.left = `${((100 * time_s) / duration_s).toFixed(3)}%`; });
    },
  };
}

/** While sound is being made: a calm swell over the part that is done. Not a waveform, there is none yet. */
export function swell(fraction) {
  return Array.from({ length: BARS }, (_, i) => {
    if ((i + 0.5) / BARS > fraction) return 0;
    return 0.2 + 0.16 * Math.sin(i * 0.61) * Math.sin(i * 0.17 + 1) + 0.06 * Math.sin(i * 1.9);
  });
}

/** What the server drew, [[lowest, highest], ...] -> BARS levels, 0 .. 1. */
export function levelsOf(peaks) {
  const found = Array.from({ length: BARS }, (_, i) => {
    const start = Math.floor((i * peaks.length) / BARS);
    const part = peaks.slice(start, Math.max(start + 1, Math.floor(((i + 1) * peaks.length) / BARS)));
    return Math.max(0, ...part.map(([low, high]) => Math.max(-low, high)));
  });
  const loudest = Math.max(...found, 0.05); // room tone stays low
  return found.map((level) => Math.sqrt(level / loudest));
}

/** For a server that draws no peaks: the finished video's samples. Rejects where the browser cannot decode it. */
export async function peaksOf(blob) {
  const context = new OfflineAudioContext(1, 1, 22_050);
  const sound = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = sound.getChannelData(0);
  return Array.from({ length: BARS }, (_, i) => {
    const part = samples.subarray(Math.floor((i * samples.length) / BARS), Math.floor(((i + 1) * samples.length) / BARS));
    return [part.reduce((low, value) => Math.min(low, value), 0), part.reduce((high, value) => Math.max(high, value), 0)];
  });
}
