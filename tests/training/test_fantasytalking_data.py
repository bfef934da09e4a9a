"""Clips of the small FantasyTalking: heads move as much as is said, and sound lies where it is heard."""

from dataclasses import fields, replace

import numpy as np
import pytest
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.types import FaceMotion
from talking_portrait.core_models.video_diffusion.fantasytalking.framing import FACE_HEIGHT, roomy_square
from talking_portrait.training import fantasytalking_data as data
from talking_portrait.training.actalker_data import embedded_listener
from talking_portrait.training.correlation import correlation
from talking_portrait.training.fantasytalking_data import TalkingClip, TalkingClips
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.performance import frames_of_seconds, wandering_performance
from talking_portrait.training.made_heads.portrait import draw_portrait

from .fantasytalking_clips import SCALE, talking_clip

FRAMES = 13


@pytest.fixture(scope="module")
def listener():
    return embedded_listener()


@pytest.fixture(scope="module")
def small_heads():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data, "DRAWN_SIZE", 96)
        yield


def made(listener, identities=(3, 8), clips_each=1, seed=4, frames=FRAMES, movement=None):
    length = frames_of_seconds(data.performance_seconds(frames))
    performances = (wandering_performance(length, number) for number in range(20))
    with pytest.MonkeyPatch.context() as patched:
        if movement is not None:
            patched.setattr(data, "moved_about", movement)
        return list(data.talking_clips(identities, clips_each, frames, seed, listener, performances))


@pytest.fixture(scope="module")
def clips(listener, small_heads) -> list[TalkingClip]:
    return made(listener)


def equal(one: TalkingClip, other: TalkingClip) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


class TestMadeClips:
    def test_clips_have_frames_and_what_is_heard_around_them(self, clips):
        for clip in clips:
            assert clip.frames.shape == (FRAMES, 64, 64, 3)
            assert clip.heard.shape == (4 * FRAMES + 40, 6, 192)
            assert clip.heard_within.shape == (4 * FRAMES, 6, 192)
        assert [clip.identity_seed for clip in clips] == [3, 8]

    def test_the_same_seed_gives_the_same_clips(self, clips, listener, small_heads):
        assert equal(clips[0], made(listener, (3,))[0])
        other = made(listener, (3,), seed=5)[0]
        assert not np.array_equal(other.place, clips[0].place)

    def test_the_mouth_opens_as_the_truth_says(self, clips):
        for clip in clips:
            open_, shut = np.argmax(clip.mouth_opening), np.argmin(clip.mouth_opening)
            assert clip.mouth_opening[open_] > clip.mouth_opening[shut] + 0.03
            heights = clip.mouth_box[:, 3] - clip.mouth_box[:, 1]
            assert correlation(heights.astype(float), clip.mouth_opening) > 0.5

    def test_boxes_lie_in_each_other_in_every_frame(self, clips):
        for clip in clips:
            for inner in (clip.mouth_box, clip.eye_box):
                assert (inner[:, :2] >= clip.face_box[:, :2]).all()
                assert (inner[:, 2:] <= clip.face_box[:, 2:]).all()
            assert (clip.eye_box[:, 3] <= clip.mouth_box[:, 1] + 1).all()

    def test_the_mouths_box_follows_the_head(self, listener, small_heads):
        def sideways(motion: FaceMotion, rng) -> FaceMotion:
            shift = np.linspace(-0.2, 0.2, motion.frame_count)[:, None] * (1, 0, 0)
            return replace(motion, rotation=np.zeros((motion.frame_count, 3)), translation=shift)

        (clip,) = made(listener, (3,), movement=sideways)
        middles = clip.mouth_box[:, [0, 2]].mean(axis=1)
        assert correlation(middles, clip.place[:, 0].astype(float)) > 0.97
        assert middles[-1] - middles[0] == pytest.approx(clip.place[-1, 0] - clip.place[0, 0], abs=1.6)
        assert np.ptp(clip.place[:, 0]) > 5
        assert np.ptp(clip.turn[:, 0]) < 0.1

    def test_measured_variances_follow_what_was_drawn(self, listener, small_heads):
        def movement(turn: float, shift: float):
            def moved(motion: FaceMotion, rng) -> FaceMotion:
                wave = np.sin(np.arange(motion.frame_count))[:, None]
                rotation, translation = turn * wave * (0, 1, 0), shift * wave * (1, 0, 0)
                return replace(motion, rotation=rotation, translation=translation)

            return moved

        still, turning, shifting = (
            made(listener, (3,), movement=movement(*amounts))[0] for amounts in ((0, 0), (8, 0), (0, 0.15))
        )
        assert turning.face_variance > 3 * still.face_variance
        assert turning.body_variance < 0.03 * shifting.body_variance
        assert shifting.body_variance > 30 * still.body_variance
        assert shifting.face_variance == pytest.approx(still.face_variance, rel=0.1)
        assert turning.turn[:, 0].std() > 3

    def test_faces_stay_in_the_picture(self, clips):
        for clip in clips:
            reach = np.ptp(clip.place, axis=0)
            assert reach.max() < 25
            assert (clip.mouth_box[:, 0] > 4).all()
            assert (clip.mouth_box[:, 2] < 60).all()

    def test_progress_counts_the_clips(self, listener, small_heads):
        seen = []
        performances = (wandering_performance(22, number) for number in range(2))
        list(data.talking_clips((1, 2), 1, 1, 0, listener, performances, lambda *counts: seen.append(counts)))
        assert seen == [(1, 2), (2, 2)]

    @pytest.mark.parametrize(("identities", "clips_each", "frames"), [((), 1, 5), ((1,), 0, 5), ((1,), 1, 0)])
    def test_nothing_to_make_is_refused(self, listener, identities, clips_each, frames):
        with pytest.raises(ValueError, match="expected at least 1"):
            next(data.talking_clips(identities, clips_each, frames, 0, listener))

    @pytest.mark.parametrize("length", [20, 31])
    def test_performances_of_another_length_are_refused(self, listener, length):
        identity = made_identity(3)
        renderer = MeshRenderer(draw_portrait(identity, 64))
        performance = wandering_performance(length, 0)
        with pytest.raises(ValueError, match=f"the performance has {length} frames"):
            data.talking_clip(renderer, identity, performance, listener, np.random.default_rng(0))


class TestMovement:
    def test_amounts_are_even_between_none_and_most(self):
        motion = FaceMotion.at_rest(37, 12.5)
        moved = [data.moved_about(motion, np.random.default_rng(seed)) for seed in range(1000, 1300)]
        turns = np.array([one.rotation[:, 1].std() for one in moved]) / data.TURN_DEGREES[1]
        shifts = np.array([one.translation[:, 0].std() for one in moved]) / data.SHIFT[0]
        for amounts in (turns, shifts):
            assert amounts.min() < 0.03
            assert 0.97 < amounts.max() <= 1 + 1e-6
            assert amounts.mean() == pytest.approx(0.5, abs=0.05)
        assert abs(correlation(turns, shifts)) < 0.15

    def test_heads_wander_slowly(self):
        moved = data.moved_about(FaceMotion.at_rest(37, 12.5), np.random.default_rng(1))
        steps = np.abs(np.diff(moved.rotation[:, 1])).max()
        assert steps < 0.6 * moved.rotation[:, 1].std()

    def test_one_frame_does_not_move(self):
        moved = data.moved_about(FaceMotion.at_rest(1, 12.5), np.random.default_rng(1))
        assert not moved.rotation.any()
        assert not moved.translation.any()

    def test_faces_are_as_high_as_asked(self):
        rest = draw_portrait(made_identity(3), 96).landmarks[:, :2].astype(np.float64)
        left, top, side = roomy_square(rest)
        assert np.ptp(rest[:, 1]) / side == pytest.approx(FACE_HEIGHT, abs=0.02)
        middle = (rest.min(axis=0) + rest.max(axis=0)) / 2
        np.testing.assert_allclose((middle - (left, top)) / side, 0.5, atol=0.05)


class TestHeard:
    def test_a_burst_is_heard_at_its_time(self, listener):
        """It begins 1 s after the performance does; row 50 at 50 Hz."""
        sound = np.zeros(16000 * 2, np.float32)
        quiet = data._heard(listener, sound, 100).astype(np.float32)
        sound[16000:16800] = 0.5 * np.sin(np.arange(800))
        change = np.abs(data._heard(listener, sound, 100) - quiet).mean(axis=(1, 2))
        assert abs(int(np.argmax(change)) - 51) <= 3

    def test_sound_that_ends_early_is_followed_by_zeros(self, listener):
        rows = data._heard(listener, np.zeros(3200, np.float32), 30)
        assert rows.shape == (30, 6, 192)
        assert rows[:10].any()
        assert not rows[10:].any()

    def test_the_margins_hold_what_audio_windows_reach(self, clips):
        """Windows of 4 tokens a frame reach from 17 rows before the first frame to 4 after the last."""
        from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import window_ranges

        ranges = window_ranges(4 * FRAMES, FRAMES)
        first, last = min(low for low, _ in ranges), max(high for _, high in ranges)
        assert first - 4 >= -data.HEARD_MARGIN
        assert last + 4 < 4 * FRAMES + data.HEARD_MARGIN
        assert clips[0].heard[0].any()


class TestCoefficients:
    def test_they_spread_evenly_over_the_clips_they_are_fitted_to(self):
        clips = tuple(talking_clip(seed) for seed in range(40))
        held = TalkingClips(clips, data.fitted_scale(clips))
        found = np.array([held.coefficients(index) for index in range(40)])
        assert found.min(axis=0).tolist() == [0, 0]
        assert found.max(axis=0).tolist() == [1, 1]
        np.testing.assert_allclose(np.sort(found[:, 0]), np.linspace(0, 1, 40), atol=0.03)
        order = np.argsort([float(clip.face_variance) for clip in clips])
        assert (np.diff(found[order, 0]) >= 0).all()

    def test_clips_that_move_alike_fit_no_scale(self):
        with pytest.raises(ValueError, match="at least two different"):
            data.fitted_scale([talking_clip(0)])


class TestFiles:
    def test_a_file_gives_back_clips_and_scale(self, tmp_path):
        path, clips = tmp_path / "clips.npz", [talking_clip(0), talking_clip(1)]
        scale = data.fitted_scale(clips)
        data.write_talking_clips(path, clips, scale)
        again = data.read_talking_clips(path)
        assert all(equal(one, other) for one, other in zip(clips, again.clips, strict=True))
        assert again.scale == scale
        assert again.clips[0].frames.base is again.clips[1].frames.base
        assert not again.clips[0].frames.flags.writeable

    def test_clips_of_several_lengths_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"one length, but these have \[5, 9\]"):
            data.write_talking_clips(tmp_path / "c.npz", [talking_clip(0), talking_clip(1, 5)], SCALE)

    def test_other_files_are_named(self, tmp_path):
        path = tmp_path / "clips.npz"
        with pytest.raises(FileNotFoundError, match="no file of clips"):
            data.read_talking_clips(path)
        np.savez(path, frames=np.zeros(3))
        with pytest.raises(ValueError, match=r"FantasyTalking clips \(its kind is another\)"):
            data.read_talking_clips(path)
        data.write_talking_clips(path, [talking_clip(0)], SCALE)
        path.write_bytes(path.read_bytes()[:20_000])
        with pytest.raises(ValueError, match="not a whole file of FantasyTalking clips"):
            data.read_talking_clips(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"turn": np.zeros((9, 3), np.float32)}, r"turn is float32 \(9, 3\), expected float32 \(9, 2\)"),
            ({"heard": np.zeros((76, 2), np.float16)}, r"heard is float16 \(76, 2\)"),
            ({"place": np.full((9, 2), np.nan, np.float32)}, "place holds NaN"),
            ({"mouth_box": np.int32([[5, 5, 5, 9]] * 9)}, r"mouth_box is \[5, 5, 5, 9\]"),
            ({"face_box": np.int32([[0, 0, 65, 9]] * 9)}, r"face_box is \[0, 0, 65, 9\]"),
            ({"body_variance": np.zeros(2)}, "body_variance is float64"),
            ({"frames": np.zeros((0, 64, 64, 3), np.uint8)}, "frames is empty"),
        ],
    )
    def test_bad_clips_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(talking_clip(0), **change)
