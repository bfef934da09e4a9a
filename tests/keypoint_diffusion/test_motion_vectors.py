"""KDTalker's numbers per frame, their statistics, and files of them that are wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
    MotionStatistics,
    motion_vectors,
    read_statistics,
    readings_from_vectors,
    statistics_entries,
)
from talking_portrait.core_models.motion.keypoint_geometry import extractor_angles, extractor_rotation

from .conftest import made_statistics


@given(st.floats(-80, 80), st.floats(-85, 85), st.floats(-170, 170))
def test_angles_come_back_from_rotations(pitch, yaw, roll):
    angles = np.array([pitch, yaw, roll])
    assert np.allclose(extractor_angles(extractor_rotation(angles)), angles, atol=1e-6)


def test_vectors_and_readings_are_one(source_reading):
    vector = motion_vectors(source_reading)
    assert vector.shape == (1, 70)
    assert np.allclose(vector[0, :4], [1.4, -6.0, 4.0, 1.0])  # scale, yaw before pitch, roll
    back = readings_from_vectors(vector, source_reading.canonical)
    assert np.allclose(back.keypoints, source_reading.keypoints)


def test_scores_and_vectors_are_inverse():
    statistics, vectors = made_statistics(), np.random.default_rng(0).normal(0, 3, (50, 70))
    assert np.allclose(statistics.denormalised(statistics.normalised(vectors)), vectors)
    assert np.allclose(statistics.normalised(statistics.motion_mean + statistics.motion_std), 1)


def test_depth_is_not_among_the_numbers(source_reading):
    """The extractor's third translation is dropped by the renderer, and was 0 in what the model learned from."""
    deep = replace(source_reading, translation=np.array([[0.05, -0.02, 0.7]]))
    assert np.array_equal(motion_vectors(deep), motion_vectors(source_reading))


def test_the_canonical_token_has_no_pose():
    token = made_statistics().canonical_token(np.full(63, 0.2))
    assert (token[:7] == 0).all()
    assert np.allclose(token[7:], 2)


class TestFile:
    def write(self, path, **changes):
        entries = {**statistics_entries(made_statistics()), **changes}
        np.savez(path, **{name: value for name, value in entries.items() if value is not None})
        return path

    def test_round_trip(self, tmp_path):
        read = read_statistics(self.write(tmp_path / "norm.npz", c_lip_mean=np.zeros(1)))
        assert np.allclose(read.motion_std, made_statistics().motion_std, rtol=1e-6)

    def test_every_fault_is_named(self, tmp_path):
        path = self.write(tmp_path / "norm.npz", yaw_mean=None, exp_std=np.ones(51))
        with pytest.raises(ValueError, match=r"missing yaw_mean; exp_std holds 51 numbers instead of 63"):
            read_statistics(path)

    @pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (0.0, "above 0"), (-1.0, "above 0")])
    def test_unusable_deviations(self, tmp_path, value, word):
        with pytest.raises(ValueError, match=word):
            read_statistics(self.write(tmp_path / "norm.npz", pitch_std=np.array([value], np.float32)))

    def test_another_kind_of_file(self, tmp_path):
        (tmp_path / "norm.npz").write_text("<html>not found</html>")
        with pytest.raises(ValueError, match=r"norm\.npz is not KDTalker's statistics file"):
            read_statistics(tmp_path / "norm.npz")

    def test_a_pickle_inside_is_refused(self, tmp_path):
        path = self.write(tmp_path / "norm.npz", t_mean=np.array([print, 1, 2], object))
        with pytest.raises(ValueError, match=r"norm\.npz"):
            read_statistics(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_statistics(tmp_path / "norm.npz")


@pytest.mark.parametrize("size", [69, 71])
def test_statistics_of_another_size_are_refused(size):
    with pytest.raises(ValueError, match="motion_mean has shape"):
        MotionStatistics(np.zeros(size), np.ones(70), np.zeros(63), np.ones(63))
