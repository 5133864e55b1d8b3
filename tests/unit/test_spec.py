from fractions import Fraction

from s2s.spec import PUBLISHED_CLIP, ClipSpec, MelSpec


def test_the_famous_numbers_of_the_published_clip_follow_from_its_spec():
    n_frames = PUBLISHED_CLIP.n_frames(10)
    assert (n_frames, PUBLISHED_CLIP.n_mel_frames(n_frames), PUBLISHED_CLIP.n_samples(n_frames)) == (215, 860, 220_160)


def test_four_mel_frames_belong_to_a_feature_frame_exactly():
    clip = ClipSpec()
    assert clip.mel.frame_rate == clip.mel_per_frame * clip.video_rate == Fraction(22_050, 256)


def test_feature_frames_cover_the_clip_and_not_one_more():
    clip = ClipSpec()
    for duration_s in (0.01, 0.5, 1, 5.75, 10, 599.99):
        n = clip.n_frames(duration_s)
        assert n / clip.video_rate >= Fraction(duration_s).limit_denominator(10**9) > (n - 1) / clip.video_rate


def test_a_spec_survives_the_bundle():
    for clip in (ClipSpec(), PUBLISHED_CLIP, ClipSpec(mel=MelSpec(hop_length=128), mel_per_frame=8)):
        assert ClipSpec.from_dict(clip.to_dict()) == clip
