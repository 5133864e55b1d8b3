"""Videos -> training sets. One format for clips of any origin; a set is a folder:

    SET/dataset.json        {"format": 1, "kind": "clips", ...what was asked for}
    SET/manifest.jsonl      one clip a line, in order of id, see `s2s.data.manifest.Clip`
    SET/clips/ID.mp4        the picture alone, H.264, square pixels, upright: no sound can leak out of it
    SET/audio/ID.flac       its true sound, 22,050 Hz mono, as long as the picture
    SET/dropped.jsonl       what was left out, and why (same lines, `flags` say it)

`collect` (VGG-Sound csv, VAS folders -> raw clips), `preprocess` (raw clips -> a set), `folder` (any videos -> a set),
`synth` (procedural clips -> a set of `s2s.synth.dataset`). `manifest.read_records` reads any of them for training.
Everything can be killed at any moment and goes on where it stopped; the result is the same byte for byte.
"""
