// The strip under the picture: a flat line that becomes sound. Decoration beside the bar and the event list, so it is
// hidden from assistive technology; levels and marks are true (decoded samples, reported events).

const SVG = "http://www.w3.org/2000/svg";
export const BARS = 96;
const WIDTH = 960;

export function createStrip(svg) {
  const bars = Array.from({ length: BARS }, (_, i) => {
    const bar = document.createElementNS(SVG, "line");
    const x = (i + 0.5) * (WIDTH / BARS);
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", 8], ["y2", 92]]) bar.setAttribute(name, value);
    bar.classList.add("bar");
    return bar;
  });
  const marks = document.createElementNS(SVG, "g");
  svg.append(...bars, marks);

  return {
    /** levels: BARS numbers 0 .. 1; lit: share of the bars, from the start, that are in colour. */
    draw(levels, lit) {
      bars.forEach((bar, i) => {
        bar.style.transform = `scaleY(${Math.max(0.012, levels?.[i] ?? 0).toFixed(3)})`;
        bar.classList.toggle("lit", i < lit * BARS);
      });
    },
    /** at: shares of the length, 0 .. 1, where an event sits. */
    mark(at) {
      marks.replaceChildren(...at.map((share) => {
        const mark = document.createElementNS(SVG, "line");
        const x = Math.min(WIDTH - 2, Math.max(2, share * WIDTH));
        for (const [name, value] of [["x1", x], ["x2", x], ["y1", 3], ["y2", 3]]) mark.setAttribute(name, value);
        mark.classList.add("mark");
        return mark;
      }));
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

/** Blob of the finished video -> BARS peaks, 0 .. 1, of its sound. Rejects where the browser cannot decode it. */
export async function peaksOf(blob) {
  const context = new OfflineAudioContext(1, 1, 22_050);
  const sound = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = sound.getChannelData(0);
  const peaks = Array.from({ length: BARS }, (_, i) => {
    let most = 0;
    const end = Math.floor(((i + 1) * samples.length) / BARS);
    for (let n = Math.floor((i * samples.length) / BARS); n < end; n += 1) most = Math.max(most, Math.abs(samples[n]));
    return most;
  });
  const loudest = Math.max(...peaks, 0.05); // room tone stays low
  return peaks.map((peak) => Math.sqrt(peak / loudest));
}
