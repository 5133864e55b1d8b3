// Looks at a chosen file before a byte is sent: what it is, and whether the limits allow it.

const BOXES = ["ftyp", "moov", "mdat", "wide", "free", "skip", "pnot"]; // first box of MP4 and old QuickTime files
const WAIT_MS = 8000;
const SLACK_S = 1; // the sound may last longer than the picture, which is all that the server measures

/** File -> true when its first bytes are those of MP4, MOV or WebM. */
async function looksLikeVideo(file) {
  const bytes = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const box = String.fromCharCode(...bytes.slice(4, 8));
  return BOXES.includes(box) || [0x1a, 0x45, 0xdf, 0xa3].every((byte, i) => bytes[i] === byte);
}

/** URL of a video -> {duration_s, width, height}, or null when this browser cannot read it. */
function readMetadata(url) {
  return new Promise((resolve) => {
    const probe = document.createElement("video");
    const done = (facts) => {
      clearTimeout(timer);
      probe.removeAttribute("src");
      probe.load();
      resolve(facts);
    };
    const timer = setTimeout(() => done(null), WAIT_MS);
    const read = () => done(probe.videoWidth // without: no picture, or one that this browser cannot show beside its sound
      ? { duration_s: probe.duration, width: probe.videoWidth, height: probe.videoHeight } : null);
    probe.preload = "metadata";
    probe.muted = true;
    probe.onerror = () => done(null);
    probe.onloadedmetadata = () => {
      if (Number.isFinite(probe.duration)) return read();
      probe.ondurationchange = () => Number.isFinite(probe.duration) && read(); // a recorder's WebM tells its length at the end
      probe.currentTime = Number.MAX_SAFE_INTEGER;
    };
    probe.src = url;
  });
}

/** facts, limits (or null while unknown) -> {code, ...} of the first limit that is broken, or null. */
export function firstBrokenLimit(facts, limits) {
  if (facts.bytes === 0) return { code: "empty" };
  if (!facts.video) return { code: "not_a_video" };
  if (limits && facts.bytes > limits.max_bytes) return { code: "too_large", bytes: facts.bytes };
  if (!facts.playable) return null; // the server can often read what this browser cannot
  if (!limits) return null;
  if (facts.duration_s > limits.max_duration_s + SLACK_S) return { code: "too_long", duration_s: facts.duration_s };
  if (facts.duration_s < limits.min_duration_s) return { code: "too_short", duration_s: facts.duration_s };
  if (Math.max(facts.width, facts.height) > limits.max_long_side_px) {
    return { code: "picture_too_large", width: facts.width, height: facts.height };
  }
  return null;
}

/** File, its object URL, limits -> {facts, refusal}. */
export async function checkFile(file, url, limits) {
  const facts = { name: file.name || "clip.mp4", bytes: file.size, video: false, playable: false };
  try {
    facts.video = await looksLikeVideo(file);
  } catch {
    return { facts, refusal: { code: "unreadable" } };
  }
  if (facts.video) {
    const metadata = await readMetadata(url);
    Object.assign(facts, metadata, { playable: metadata !== null });
  }
  return { facts, refusal: firstBrokenLimit(facts, limits) };
}
