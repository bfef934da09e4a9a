"""Clips of the small ACTalker: what is true of them agrees with what is drawn, and files give them back."""

from dataclasses import fields, replace

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import LIPS_CONTOUR
from talking_portrait.core_models.motion.blinking import runs
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, FaceMotion
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import FACE_SHARE, face_square
from talking_portrait.training import actalker_data as data
from talking_portrait.training.actalker_data import ControlledClip
from talking_portrait.training.correlation import correlation
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.performance import wandering_performance
from talking_portrait.training.made_heads.portrait import draw_portrait
from talking_portrait.training.speech_synthesis import SynthesiserMissingError

JAW = BLENDSHAPE_INDEX["jawOpen"]
LID = BLENDSHAPE_INDEX["eyeBlinkLeft"]


@pytest.fixture(scope="module")
def listener():
    return data.embedded_listener()


def made(listener, identities=(3, 8), clips_each=1, seed=4, frames=25) -> list[ControlledClip]:
    performances = (wandering_performance(frames, number) for number in range(20))
    return list(data.controlled_clips(identities, clips_each, 1.0, seed, listener, performances))


@pytest.fixture(scope="module")
def clips(listener) -> list[ControlledClip]:
    return made(listener)


def equal(one: ControlledClip, other: ControlledClip) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


class TestMadeClips:
    def test_every_second_frame_is_kept(self, clips):
        assert [len(clip) for clip in clips] == [13, 13]
        assert clips[0].frames.shape == (13, 64, 64, 3)
        assert clips[0].motion.shape == (13, 58)
        assert [clip.identity_seed for clip in clips] == [3, 8]

    def test_the_same_seed_gives_the_same_clips(self, clips, listener):
        assert all(equal(one, again) for one, again in zip(clips, made(listener), strict=True))
        other = made(listener, seed=5)[0]
        assert not np.array_equal(other.motion, clips[0].motion)

    def test_takes_of_a_person_differ(self, listener):
        first, second = made(listener, identities=(3,), clips_each=2)
        assert first.identity_seed == second.identity_seed
        assert np.array_equal(first.face_box.shape, second.face_box.shape)
        assert not np.array_equal(first.motion, second.motion)

    def test_the_mouth_opens_as_the_truth_says(self, clips):
        """The dark of an open mouth shows inside the mouth's box, and nowhere else as much."""
        for clip in clips:
            open_, shut = np.argmax(clip.mouth_opening), np.argmin(clip.mouth_opening)
            assert clip.mouth_opening[open_] > clip.mouth_opening[shut] + 0.03
            left, top, right, bottom = clip.mouth_box
            change = np.abs(clip.frames[open_].astype(float) - clip.frames[shut])
            assert change[top:bottom, left:right].mean() > 8

    def test_the_truth_follows_the_motion(self, clips):
        for clip in clips:
            assert correlation(clip.turn[:, 0], clip.motion[:, 53]) > 0.99
            assert correlation(clip.turn[:, 1], clip.motion[:, 52]) > 0.99
            assert correlation(clip.eye_opening, clip.motion[:, LID]) < -0.8
            assert clip.eye_opening.min() >= 0

    def test_boxes_lie_in_each_other(self, clips):
        for clip in clips:
            face, mouth, eyes = clip.face_box, clip.mouth_box, clip.eye_box
            for inner in (mouth, eyes):
                assert (inner[:2] >= face[:2]).all()
                assert (inner[2:] <= face[2:]).all()
            assert eyes[3] <= mouth[1]

    def test_progress_counts_the_clips(self, listener):
        seen = []
        performances = (wandering_performance(3, number) for number in range(2))
        list(
            data.controlled_clips(
                (1, 2), 1, 0.1, 0, listener, performances, lambda done, total: seen.append((done, total))
            )
        )
        assert seen == [(1, 2), (2, 2)]

    @pytest.mark.parametrize(("identities", "clips_each"), [((), 1), ((1,), 0)])
    def test_nothing_to_make_is_refused(self, listener, identities, clips_each):
        with pytest.raises(ValueError, match="expected at least 1"):
            next(data.controlled_clips(identities, clips_each, 1.0, 0, listener))

    def test_speech_is_spoken(self, listener):
        try:
            (clip,) = data.controlled_clips((5,), 1, 1.0, 2, listener)
        except SynthesiserMissingError:
            pytest.skip("espeak-ng is not installed")
        assert len(clip) == 13
        assert clip.mouth_opening.max() > 0.03


class TestGeometry:
    @pytest.mark.parametrize("seed", [3, 10_004])
    def test_faces_lie_whole_in_the_frame_as_high_as_asked(self, seed):
        portrait = draw_portrait(made_identity(seed), data.DRAWN_SIZE)
        rest = portrait.landmarks[:, :2].astype(np.float64)
        *corner, side = face_square(rest)
        height = np.ptp(rest[:, 1]) / side
        assert height == pytest.approx(FACE_SHARE, abs=0.01)
        turned = FaceMotion.at_rest(4, 12.5)
        reach = np.array(data.LARGEST_TURN)
        motion = replace(turned, rotation=np.array([reach, -reach, reach * (1, -1, 1), reach * (-1, 1, 1)]))
        points = (MeshRenderer(portrait).landmarks(motion)[..., :2] - corner) / side
        assert points.min() > 0
        assert points.max() < 1

    def test_a_box_holds_its_points_and_no_more(self):
        points = np.array([[[10.0, 20.0], [12.2, 25.0]], [[30.0, 21.0], [11.0, 40.4]]])
        assert data.landmark_box(points).tolist() == [10, 20, 31, 41]

    def test_a_widened_box_stays_in_the_frame(self):
        points = np.array([[[1.5, 19.5], [61.5, 39.5]]])
        assert data.landmark_box(points, 1.2).tolist() == [0, 18, 64, 42]

    def test_lips_lie_in_their_box(self, listener):
        identity = made_identity(3)
        renderer = MeshRenderer(draw_portrait(identity, data.DRAWN_SIZE))
        performance = wandering_performance(25, 0)
        clip = data.controlled_clip(renderer, identity, performance, listener)
        rest = renderer.portrait.landmarks[:, :2].astype(np.float64)
        *corner, side = face_square(rest)
        lips = renderer.landmarks(performance.motion)[::2, list(LIPS_CONTOUR), :2]
        edges = (lips - corner + 0.5) * 64 / side
        assert (edges >= clip.mouth_box[:2]).all()
        assert (edges <= clip.mouth_box[2:]).all()
        assert (edges.reshape(-1, 2).min(axis=0) < clip.mouth_box[:2] + 1).all()


class TestLivelier:
    def test_mouth_and_gaze_stay(self):
        motion = wandering_performance(50, 1).motion
        livened = data.livelier(motion, np.random.default_rng(0))
        kept = [i for name, i in BLENDSHAPE_INDEX.items() if name.startswith(("jaw", "mouth", "eyeLook"))]
        np.testing.assert_array_equal(livened.expression[:, kept], motion.expression[:, kept])

    def test_eyes_blink_as_often_as_said(self):
        motion = FaceMotion.at_rest(25 * 60, 25)
        lids = data.livelier(motion, np.random.default_rng(0)).expression[:, LID]
        blinks = len(runs(lids > 0.9))
        assert blinks == pytest.approx(60 / data.SECONDS_PER_BLINK, rel=0.15)

    def test_heads_turn_but_not_too_far(self):
        motion = FaceMotion.at_rest(25 * 60, 25)
        rotation = data.livelier(motion, np.random.default_rng(1)).rotation
        assert (np.abs(rotation) <= np.array(data.LARGEST_TURN) + 1e-4).all()
        assert (rotation.std(axis=0) > 0.7 * np.array(data.HEAD_DEGREES)).all()

    def test_head_brows_and_lids_know_nothing_of_the_motion_given(self):
        rng = [np.random.default_rng(2) for _ in range(2)]
        one = data.livelier(wandering_performance(30, 1).motion, rng[0])
        other = data.livelier(wandering_performance(30, 2).motion, rng[1])
        drawn = [i for name, i in BLENDSHAPE_INDEX.items() if name.startswith(("brow", "eyeBlink"))]
        np.testing.assert_array_equal(one.rotation, other.rotation)
        np.testing.assert_array_equal(one.expression[:, drawn], other.expression[:, drawn])


class TestHeard:
    def test_windows_lie_about_the_middles_of_the_frames(self, clips):
        """Frame i shows 1/25 s that begins with row 4 i at 50 Hz: 7 rows before it, it and the next, 7 after."""
        clip = clips[0]
        assert clip.audio.shape == (13, 16, 6, 192)
        assert not clip.audio[0, :7].any()
        assert clip.audio[0, 7:].any(axis=(1, 2)).all()
        np.testing.assert_array_equal(clip.audio[3], clip.heard[12:28])
        np.testing.assert_array_equal(clip.audio[5, :12], clip.audio[4, 4:])

    def test_a_sound_shifts_what_is_heard(self, listener):
        """A burst in silence is heard in the rows around its time."""
        sound = np.zeros(16000 * 2, np.float32)
        sound[16000:16800] = 0.5 * np.sin(np.arange(800))
        burst = data.heard_by_frames(listener, sound, 25).astype(np.float32)
        quiet = data.heard_by_frames(listener, 0 * sound, 25).astype(np.float32)
        change = np.abs(burst - quiet).mean(axis=(1, 2))
        assert abs(int(np.argmax(change)) - data.HEARD_BEFORE - 51) <= 3

    def test_sound_that_ends_early_is_followed_by_zeros(self, listener):
        rows = data.heard_by_frames(listener, np.zeros(1600, np.float32), 10)
        assert len(rows) == data.heard_rows(10)
        assert rows[7:17].any()
        assert not rows[17:].any()


class TestFiles:
    def test_a_file_gives_back_its_clips(self, clips, tmp_path):
        path = tmp_path / "clips.npz"
        data.write_clips(path, clips)
        again = data.read_clips(path)
        assert all(equal(one, other) for one, other in zip(clips, again, strict=True))
        assert again[0].frames.base is again[1].frames.base
        assert list(tmp_path.iterdir()) == [path]

    def test_clips_of_several_lengths_are_refused(self, clips, listener, tmp_path):
        with pytest.raises(ValueError, match=r"one length, but these have \[2, 13\]"):
            data.write_clips(tmp_path / "clips.npz", [clips[0], made(listener, (3,), frames=3)[0]])

    def test_no_clip_and_another_suffix_are_refused(self, clips, tmp_path):
        with pytest.raises(ValueError, match="none"):
            data.write_clips(tmp_path / "clips.npz", [])
        with pytest.raises(ValueError, match=r"clips\.bin"):
            data.write_clips(tmp_path / "clips.bin", clips)

    def test_other_files_are_named(self, clips, tmp_path):
        path = tmp_path / "clips.npz"
        with pytest.raises(FileNotFoundError, match="no file of clips"):
            data.read_clips(path)
        np.savez(path, frames=np.zeros(3))
        with pytest.raises(ValueError, match="its kind is another"):
            data.read_clips(path)
        data.write_clips(path, clips)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ValueError, match="not a whole file"):
            data.read_clips(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((13, 32, 32, 3), np.uint8)}, "frames is uint8"),
        ({"frames": np.zeros((0, 64, 64, 3), np.uint8)}, "frames is empty"),
        ({"heard": np.zeros((20, 6, 192), np.float16)}, r"heard is float16 \(20, 6, 192\)"),
        ({"heard": np.zeros(64, np.float16)}, "heard is float16"),
        ({"motion": np.zeros((13, 58))}, "motion is float64"),
        ({"turn": np.full((13, 2), np.nan, np.float32)}, "turn holds NaN"),
        ({"mouth_box": np.int32([5, 5, 5, 9])}, r"mouth_box is \[5, 5, 5, 9\]"),
        ({"face_box": np.int32([0, 0, 65, 64])}, "face_box"),
    ],
)
def test_bad_clips_are_named(clips, change, message):
    with pytest.raises(ValueError, match=message):
        replace(clips[0], **change)


def test_a_clip_cannot_be_changed_from_outside(clips):
    frames = clips[0].frames.copy()
    clip = replace(clips[0], frames=frames)
    frames[:] = 0
    assert clip.frames.any()
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 0
