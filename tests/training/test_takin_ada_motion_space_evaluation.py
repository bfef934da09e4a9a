"""Measurements of a motion space: each against networks or frames for which the answer is known."""

import json

import numpy as np
import pytest
import torch
from talking_portrait.core_models.motion.keypoint_transform import KeypointTransform, rotation_of_angles
from talking_portrait.core_models.rendering.motion_space import SpaceMotion
from talking_portrait.training import takin_ada_motion_space_evaluation as evaluation
from talking_portrait.training.correlation import correlation
from talking_portrait.training.eye_regressor import fitted_eye_regressor
from talking_portrait.training.opening_regressor import fitted_regressor, openings_of
from talking_portrait.training.takin_ada_frames import FrameSet, pictures_of

SIZE = 16


def faces(persons: int = 3, frames: int = 6) -> FrameSet:
    """A person is a grey value; a frame's red corner is how far the lips are open."""
    count = persons * frames
    lips = np.tile(np.linspace(0, 1, frames, dtype=np.float32), persons)
    person = np.repeat(np.arange(persons), frames)
    pictures = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    pictures[:] = (60 * (person + 1))[:, None, None, None]
    pictures[:, :8, :8, 0] = np.round(255 * lips)[:, None, None]
    return FrameSet(
        pictures=pictures,
        landmarks=np.zeros((count, 10, 2), np.float32),
        angles=np.zeros((count, 3), np.float32),
        openings=np.stack([np.ones(count, np.float32), np.ones(count, np.float32), lips], axis=1),
        persons=person,
        clips=person,
    )


class Understanding:
    """Stands for networks: canonical keypoints are the grey, the deformation the red; `leak` mixes them up."""

    class parameters_used:
        picture_size = SIZE

    def __init__(self, leak: float = 0.0, follows: float = 1.0) -> None:
        self.leak, self.follows = leak, follows

    def motion(self, pictures: torch.Tensor) -> SpaceMotion:
        grey, red = pictures[:, 1, 0, 0], pictures[:, 0, 0, 0]
        count = len(pictures)
        canonical = (grey + self.leak * red)[:, None, None].expand(count, 12, 3)
        deformation = (self.follows * red)[:, None, None].expand(count, 12, 3)
        angles = torch.zeros(count, 3)
        return SpaceMotion(
            canonical,
            rotation_of_angles(angles),
            angles,
            deformation,
            angles,
            None,
            KeypointTransform.WITHOUT_SCALE,
        )

    def keypoints(self, motion: SpaceMotion, canonical: torch.Tensor | None = None) -> torch.Tensor:
        return (motion.canonical if canonical is None else canonical) + motion.deformation

    def render_keypoints(self, source: torch.Tensor, at: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        drawn = source[:, 1:2, -1:, -1:].expand(-1, 3, SIZE, SIZE).clone()
        drawn[:, 0, :8, :8] = (moved[:, 0, 0] - source[:, 1, 0, 0])[:, None, None]
        return drawn


def test_spread_is_within_persons_and_between_them():
    spread = evaluation.canonical_spread(Understanding(), faces())
    assert spread.within == pytest.approx(0, abs=1e-6)
    assert spread.between == pytest.approx(np.std([60, 120, 180]) / 255, rel=1e-3)
    assert spread.deformation == pytest.approx(np.linspace(0, 1, 6).std(ddof=0), rel=1e-2)
    leaking = evaluation.canonical_spread(Understanding(leak=0.5), faces())
    assert leaking.within == pytest.approx(0.5 * spread.deformation, rel=1e-2)
    assert leaking.ratio > 0.5 > spread.ratio


def test_leakage_is_0_where_the_source_gives_the_person_alone():
    clean = evaluation.leakage(Understanding(), faces())
    assert clean.output == pytest.approx(0, abs=1e-6)
    assert clean.keypoints == pytest.approx(0, abs=1e-6)
    assert clean.source > 0
    leaking = evaluation.leakage(Understanding(leak=0.5), faces())
    assert leaking.ratio == pytest.approx(0.5, rel=0.02)
    with pytest.raises(ValueError, match="expected at least 3"):
        evaluation.leakage(Understanding(), faces(frames=2))


def test_following_tells_who_moves_from_who_does_not():
    data = faces(4, 12)
    regressor = fitted_regressor(data, 150)
    for cross in (False, True):
        moving = evaluation.following(Understanding(), data, regressor, cross)
        stiff = evaluation.following(Understanding(follows=0.0), data, regressor, cross)
        assert moving.lips > 0.9
        assert moving.real_lips > 0.9
        assert abs(stiff.lips) < 0.3
        assert moving.real_eyes == 0  # they never move


def test_reconstruction_is_measured_against_a_source_left_alone():
    found = evaluation.reconstruction(Understanding(), faces())
    assert found.difference == pytest.approx(0, abs=1e-6)
    assert found.psnr > 100
    assert found.still_difference > 0.01
    assert found.still_psnr < 40


def test_the_probe_finds_openings_in_the_deformation():
    probe = evaluation.linear_probe(Understanding(), faces(), faces(2))
    assert probe[0] > 0.99
    assert evaluation.linear_probe(Understanding(follows=0.0), faces(), faces(2))[0] == 0


def test_openings_between_keypoints_by_hand():
    keypoints = np.zeros((2, 12, 3))
    for index, (x, y) in enumerate([(-4, 0), (-2, 0), (-3, -1), (2, 0), (4, 0), (3, -1)]):
        keypoints[:, index, :2] = (x, y)
    keypoints[1, [2, 5], 1] = 0
    keypoints[:, 6, 0], keypoints[:, 7, 0] = -2, 2
    keypoints[1, 9, 1] = 2
    np.testing.assert_allclose(evaluation.keypoint_openings(keypoints), [[0, 0.5], [0.5, 0]], atol=1e-9)
    turn = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        evaluation.keypoint_openings(3 * keypoints @ turn + 5), [[0, 0.5], [0.5, 0]], atol=1e-9
    )


def test_a_contact_sheet_has_sources_drivers_and_outputs():
    data = faces()
    sources, drivers = pictures_of(data, np.array([0, 6])), pictures_of(data, np.array([5, 11]))
    sheet = evaluation.contact_sheet(Understanding(), sources, drivers)
    assert sheet.shape == (3 * SIZE, 2 * SIZE, 3)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet[:SIZE, :SIZE], data.pictures[0])
    np.testing.assert_array_equal(sheet[SIZE : 2 * SIZE, SIZE:], data.pictures[11])
    np.testing.assert_array_equal(sheet[2 * SIZE :, :SIZE], data.pictures[5])


def test_correlation_by_hand():
    rising = np.arange(5.0)[:, None]
    assert correlation(rising, 2 * rising + 1) == pytest.approx(1)
    assert correlation(rising, -rising) == pytest.approx(-1)
    assert correlation(rising, np.ones((5, 1))) == 0


def test_the_regressor_reads_openings_and_is_the_same_again():
    data = faces(4, 12)
    first, again = fitted_regressor(data, 60), fitted_regressor(data, 60)
    pictures = pictures_of(data, np.arange(len(data)))
    np.testing.assert_array_equal(first.read(pictures), again.read(pictures))
    assert correlation(first.read(pictures), openings_of(data))[0] > 0.8
    with pytest.raises(ValueError, match="steps is 0"):
        fitted_regressor(data, 0)


def test_the_command_refuses_persons_that_training_saw(tmp_path):
    from talking_portrait.training.takin_ada_frames import write_frames

    path = tmp_path / "frames.safetensors"
    write_frames(faces(), path)
    with pytest.raises(ValueError, match="training saw some of these persons"):
        evaluation.main(["none.safetensors", "--frames", str(path), "--first-person", "0"])


def test_figures_are_plain_numbers():
    data = faces()
    readers = evaluation.Readers(fitted_regressor(data, 5), fitted_eye_regressor(data, 5))
    figures = evaluation.evaluated(Understanding(), evaluation.EvaluationData(data, data, data), readers)
    assert set(json.loads(json.dumps(figures))) == {
        "canonical_spread",
        "leakage",
        "self_driving",
        "cross_driving",
        "eye_patches",
        "probe",
        "reconstruction",
    }
