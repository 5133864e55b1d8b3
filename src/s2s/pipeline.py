"""READ FIRST. The product as code: a silent clip in, the same clip with fitting sound out.

    generator = SoundGenerator.from_bundle(path, device="cpu")
    sound = generator.generate("clip.mp4", seed=0)   # probe -> frames -> flow -> TSN -> events -> mel -> waveform
    add_sound("clip.mp4", sound.waveform, "out.mp4")  # ffmpeg mux; the picture is untouched
"""
