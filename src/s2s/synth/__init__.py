"""The procedural audio-visual set: scenes whose event times, kinds and strengths are known exactly."""
