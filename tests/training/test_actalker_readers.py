"""The reader of mouth, eyes and turn: it learns what is true of frames, and files give it back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.core_models.video_diffusion.autoencoder import new_video_autoencoder
from talking_portrait.training import actalker_readers as made
from talking_portrait.training.actalker_autoencoder import SMALL_AUTOENCODER
from talking_portrait.training.actalker_data import ControlledClip, heard_rows
from talking_portrait.training.actalker_readers import READINGS, FrameReader


def clip(seed: int, frames: int = 8) -> ControlledClip:
    """A face that is a disc: its mouth and eyes are as dark as they are open; it moves aside by yaw, down by pitch."""
    rng = np.random.default_rng(seed)
    mouth, eyes = rng.uniform(0, 0.1, frames), rng.uniform(0, 0.06, frames)
    turn = rng.uniform(-8, 8, (frames, 2))
    y, x = np.mgrid[0:64, 0:64]
    pictures = np.full((frames, 64, 64, 3), 40.0)
    for picture, m, e, (yaw, pitch) in zip(pictures, mouth, eyes, turn, strict=True):
        across, down = x - 32 - yaw, y - 32 - pitch
        picture[np.hypot(across, down) < 22] = 200
        picture[(np.abs(across) < 8) & (np.abs(down - 10) < 5)] = 200 - 1500 * m
        picture[(np.abs(across) < 14) & (np.abs(down + 8) < 4)] = 200 - 2500 * e
    return ControlledClip(
        frames=np.rint(pictures).astype(np.uint8),
        heard=np.zeros((heard_rows(frames), 2, 3), np.float16),
        motion=np.zeros((frames, 58), np.float32),
        mouth_opening=mouth.astype(np.float32),
        eye_opening=eyes.astype(np.float32),
        turn=turn.astype(np.float32),
        face_box=np.int32([4, 4, 60, 60]),
        mouth_box=np.int32([16, 36, 48, 56]),
        eye_box=np.int32([10, 12, 54, 36]),
        identity_seed=seed,
    )


CLIPS = [clip(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def reader() -> FrameReader:
    return made.fitted_frame_reader(CLIPS, steps=60, seed=1)


def test_truth_is_in_the_order_of_the_readings():
    truth = made.true_readings(CLIPS[0])
    assert truth.shape == (8, len(READINGS))
    np.testing.assert_array_equal(truth[:, READINGS.index("mouth_opening")], CLIPS[0].mouth_opening)
    np.testing.assert_array_equal(truth[:, READINGS.index("pitch")], CLIPS[0].turn[:, 1])


def test_it_learns_what_the_frames_show(reader):
    quality = made.reading_quality(reader, [clip(100), clip(101)])
    assert (quality.overall > 0.8).all()
    assert (quality.error[2:] < 4).all()


def test_a_mirrored_face_turns_the_other_way(reader):
    frames = clip(102).frames
    read, mirrored = reader.read(frames), reader.read(np.ascontiguousarray(frames[:, :, ::-1]))
    assert np.corrcoef(read[:, 2], -mirrored[:, 2])[0, 1] > 0.8
    assert np.corrcoef(read[:, 0], mirrored[:, 0])[0, 1] > 0.8


def test_the_same_seed_gives_the_same_reader():
    one, again, other = (made.fitted_frame_reader(CLIPS[:2], steps=2, seed=seed) for seed in (0, 0, 1))
    frames = CLIPS[0].frames
    np.testing.assert_array_equal(one.read(frames), again.read(frames))
    assert not np.array_equal(one.read(frames), other.read(frames))


def test_frames_seen_once_more_are_learned_from():
    blurred = [np.zeros_like(one.frames) for one in CLIPS[:2]]
    plain = made.fitted_frame_reader(CLIPS[:2], steps=2)
    both = made.fitted_frame_reader(CLIPS[:2], blurred, steps=2)
    assert not np.array_equal(plain.read(CLIPS[0].frames), both.read(CLIPS[0].frames))


def test_quality_of_other_frames_is_theirs(reader):
    still = [np.repeat(one.frames[:1], 8, axis=0) for one in CLIPS[:2]]
    quality = made.reading_quality(reader, CLIPS[:2], still)
    np.testing.assert_array_equal(quality.within, 0)


def test_reconstructions_have_their_clips_shapes():
    torch.manual_seed(0)
    autoencoder = new_video_autoencoder(SMALL_AUTOENCODER).eval().requires_grad_(False)
    (frames,) = made.reconstructed(autoencoder, CLIPS[:1])
    assert frames.shape == CLIPS[0].frames.shape
    assert frames.dtype == np.uint8


def test_a_file_gives_back_the_reader(reader, tmp_path):
    path = tmp_path / "reader.safetensors"
    made.write_frame_reader(reader, path)
    loaded = made.load_frame_reader(path)
    np.testing.assert_array_equal(loaded.read(CLIPS[3].frames), reader.read(CLIPS[3].frames))
    assert list(tmp_path.iterdir()) == [path]


class TestBadInput:
    def test_no_clips(self, reader):
        with pytest.raises(ValueError, match="no clips to fit"):
            made.fitted_frame_reader([])
        with pytest.raises(ValueError, match="no clips to read"):
            made.reading_quality(reader, [])

    def test_frames_of_other_numbers(self):
        with pytest.raises(ValueError, match=r"seen holds \[3\]"):
            made.fitted_frame_reader(CLIPS[:1], [CLIPS[0].frames[:3]])

    def test_no_steps(self):
        with pytest.raises(ValueError, match="steps is 0"):
            made.fitted_frame_reader(CLIPS[:1], steps=0)

    @pytest.mark.parametrize("shape", [(2, 32, 32, 3), (64, 64, 3), (2, 3, 64, 64)])
    def test_frames_of_another_shape(self, reader, shape):
        with pytest.raises(ValueError, match="expected uint8"):
            reader.read(np.zeros(shape, np.uint8))

    def test_frames_of_another_dtype(self, reader):
        with pytest.raises(ValueError, match="frames are float32"):
            reader.read(CLIPS[0].frames.astype(np.float32))

    def test_no_frames_read_nothing(self, reader):
        assert reader.read(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 4)

    def test_another_suffix_and_another_model(self, reader, tmp_path):
        from safetensors.torch import save_file

        with pytest.raises(ValueError, match=r"reader\.pt"):
            made.write_frame_reader(reader, tmp_path / "reader.pt")
        save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(WeightMismatchError, match="it is the file of another model"):
            made.load_frame_reader(tmp_path / "other.safetensors")


def test_clips_are_not_changed():
    one = replace(CLIPS[0], frames=CLIPS[0].frames.copy())
    before = one.frames.copy()
    made.fitted_frame_reader([one], steps=1)
    np.testing.assert_array_equal(one.frames, before)


def test_eyes_are_read_off_their_surroundings_and_dark_faces_like_bright_ones(reader):
    frames = clip(103).frames
    eye = READINGS.index("eye_opening")
    elsewhere = frames.copy()
    elsewhere[:, made.EYE_ROWS.stop :] = 0
    np.testing.assert_array_equal(reader.read(elsewhere)[:, eye], reader.read(frames)[:, eye])
    dark = np.rint(frames * 0.5).astype(np.uint8)
    spread = reader.read(frames)[:, eye].std()
    np.testing.assert_allclose(reader.read(dark)[:, eye], reader.read(frames)[:, eye], atol=0.5 * spread)
