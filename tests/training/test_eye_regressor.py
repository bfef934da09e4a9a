"""The reader of eyes: patches lie level between the corners, and openings are read back on people it never saw."""

import numpy as np
import pytest
import torch
from talking_portrait.training.correlation import correlation
from talking_portrait.training.eye_regressor import PATCH, EyeRegressor, eye_patches, fitted_eye_regressor
from talking_portrait.training.takin_ada_frames import FrameSet, pictures_of


def landmarks_of(left: tuple[float, float], right: tuple[float, float]) -> np.ndarray:
    points = np.zeros((1, 10, 2), np.float32)
    for first, second in ((0, 1), (3, 4)):
        points[0, first], points[0, second] = left, right
    return points


class TestPatches:
    @pytest.mark.parametrize("turn", [0.0, 0.4, -0.7])
    def test_they_are_level_and_between_the_corners(self, turn):
        """A bar along the corners becomes a bar along the patch's middle, however the head is turned."""
        size = 96
        place = (2 * torch.arange(size) + 1) / size - 1
        y, x = torch.meshgrid(place, place, indexing="ij")
        across = -np.sin(turn) * x + np.cos(turn) * y
        picture = (across.abs() < 0.05).float().expand(1, 3, -1, -1)
        end = 0.3 * np.array([np.cos(turn), np.sin(turn)], np.float32)
        patch = eye_patches(picture, landmarks_of(tuple(-end), tuple(end)))[0, 0, 0]
        assert patch.shape == PATCH
        middle = slice(PATCH[0] // 2 - 1, PATCH[0] // 2 + 1)
        assert patch[middle].mean() > 0.8
        assert patch[:3].max() == 0
        assert patch[-3:].max() == 0

    def test_the_lid_is_not_looked_at(self):
        picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        points = landmarks_of((-0.3, 0.0), (0.3, 0.1))
        moved = points.copy()
        moved[:, [2, 5, 6, 7, 8, 9]] += 0.5
        assert torch.equal(eye_patches(picture, points), eye_patches(picture, moved))


def test_both_eyes_count_alike():
    regressor = EyeRegressor().eval().requires_grad_(False)
    patches = torch.rand(3, 2, 3, *PATCH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(regressor(patches), regressor(patches.flip(1)))


def drawn_eyes(count: int, seed: int) -> FrameSet:
    """Skin of any tone with two dark slits, as high as the eyes are open."""
    rng = np.random.default_rng(seed)
    openings = rng.uniform(0.05, 0.45, count).astype(np.float32)
    pictures = np.empty((count, 64, 64, 3), np.uint8)
    pictures[:] = rng.integers(150, 250, (count, 1, 1, 3))
    for picture, opening in zip(pictures, openings, strict=True):
        half = 20 * opening / 2  # an eye is 20 pixels wide
        rows = np.abs(np.arange(64) + 0.5 - 32)[:, None] < half
        for first in (8, 36):
            picture[:, first : first + 20][np.broadcast_to(rows, (64, 20))] = 40
    points = np.tile(landmarks_of((0.0, 0.0), (0.0, 0.0)), (count, 1, 1))
    for (left, right), first in zip(((0, 1), (3, 4)), (8, 36), strict=True):
        points[:, left, 0], points[:, right, 0] = first / 32 - 1, (first + 20) / 32 - 1
    lips = np.zeros(count, np.float32)
    return FrameSet(
        pictures, points, np.zeros((count, 3), np.float32), np.stack([openings, openings, lips], axis=1),
        np.arange(count), np.arange(count),
    )  # fmt: skip


def test_openings_are_read_back_from_people_it_never_saw():
    regressor = fitted_eye_regressor(drawn_eyes(200, 1), steps=50)
    others = drawn_eyes(60, 2)
    read = regressor.read(pictures_of(others, np.arange(60)), others.landmarks)
    assert correlation(read, others.openings[:, 0]) > 0.9


def test_the_same_seed_gives_the_same_reader():
    frames = drawn_eyes(4, 3)
    readers = [fitted_eye_regressor(frames, steps=2, seed=5) for _ in range(2)]
    for first, second in zip(readers[0].parameters(), readers[1].parameters(), strict=True):
        assert torch.equal(first, second)
    with pytest.raises(ValueError, match="steps is 0"):
        fitted_eye_regressor(frames, steps=0)
