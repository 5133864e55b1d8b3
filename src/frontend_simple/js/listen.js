// Lets a shift and a change of volume be heard in the page before anything is made again.
//
// Louder or softer: the video's own sound through a gain. Earlier or later: the decoded sound beside the silent video,
// started at the shifted place on every play and seek. The person's volume and mute stay those of the video.

const DRIFT_S = 0.06; // two clocks: beyond this the sound is started anew

export function createListening(video) {
  let context = null;
  let own; // gain of the video's own sound
  let beside; // gain of the shifted sound
  let playing = null; // {node, from_s, at_s}
  let sound = null; // AudioBuffer
  let wanted = null; // what `sound` is decoded from: () => Promise of a Blob
  let shown = 0; // counts what was shown: a sound that is decoded too late is not heard with another picture
  let offset_s = 0;
  let gain = 1;

  function open() {
    if (context) return;
    context = new AudioContext();
    own = context.createGain();
    beside = context.createGain();
    context.createMediaElementSource(video).connect(own).connect(context.destination);
    beside.connect(context.destination);
  }

  function level() {
    if (!context) return;
    own.gain.value = offset_s ? 0 : gain;
    beside.gain.value = offset_s && !video.muted ? gain * video.volume : 0;
  }

  function hush() {
    playing?.node.stop();
    playing = null;
  }

  function start() {
    hush();
    if (!context || !offset_s || !sound || video.paused || video.seeking) return;
    const node = context.createBufferSource();
    node.buffer = sound;
    node.playbackRate.value = video.playbackRate;
    node.connect(beside);
    const from_s = video.currentTime - offset_s;
    playing = { node, from_s, at_s: context.currentTime };
    if (from_s >= 0) node.start(0, from_s);
    else node.start(context.currentTime - from_s / video.playbackRate);
  }

  function mind() {
    if (!playing) return;
    const there_s = playing.from_s + (context.currentTime - playing.at_s) * video.playbackRate;
    if (Math.abs(there_s - (video.currentTime - offset_s)) > DRIFT_S) start();
  }

  for (const name of ["playing", "seeked", "ratechange"]) video.addEventListener(name, start);
  for (const name of ["pause", "waiting", "seeking", "ended", "emptied"]) video.addEventListener(name, hush);
  video.addEventListener("play", () => context?.resume());
  video.addEventListener("timeupdate", mind);
  video.addEventListener("volumechange", level);

  return {
    /** What is on the screen now; `getSound()` gives its sound as a Blob when it is needed. Back to as it was made. */
    show(getSound = null) {
      hush();
      shown += 1;
      [wanted, sound, offset_s, gain] = [getSound, null, 0, 1];
      level();
    },
    /** Shift against the result as it was made, milliseconds, and volume against it, dB. */
    async nudge({ offset_ms, gain_db }) {
      const moved = offset_s !== offset_ms / 1000;
      [offset_s, gain] = [offset_ms / 1000, 10 ** (gain_db / 20)];
      if (!context && !offset_s && gain === 1) return;
      open();
      level();
      if (offset_s && !sound && wanted) {
        const [asked, mine] = [wanted, shown];
        wanted = null;
        try {
          const decoded = await context.decodeAudioData(await (await asked()).arrayBuffer());
          if (mine === shown) sound = decoded;
        } catch {
          if (mine === shown) wanted = asked; // tried again at the next change
        }
        start();
      } else if (moved) start();
    },
  };
}
