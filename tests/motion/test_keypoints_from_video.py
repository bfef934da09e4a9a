"""Driving videos read in implicit keypoints: crop, missing faces, rates. The networks are doubles."""

import logging

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.anchored_crop import FaceSquare
from talking_portrait.core_models.face.landmarker import DetectedFace, FaceNotFoundError
from talking_portrait.core_models.face.portrait_video import portrait_video, smoothed_squares
from talking_portrait.core_models.face.pose import project_shape
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.face.tracking import follow_face
from talking_portrait.core_models.motion.keypoints_from_video import (
    DriverParameters,
    crop_affine,
    keypoint_motion_from_frames,
)
from talking_portrait.core_models.motion.motion_extractor import ExtractedMotion
from talking_portrait.core_models.motion.track import resample_motion
from talking_portrait.core_models.types import BLENDSHAPE_NAMES, HeadPose

FACELESS = 0


def landmarks_at(x: float, y: float, scale: float) -> np.ndarray:
    points = np.zeros((478, 3))
    points[:468] = project_shape(canonical_face().vertices, HeadPose((0, 0, 0), (x, -y, 0), scale))
    return points


class KnownFace:
    """A landmarker that finds one face in the middle, unless the frame is black."""

    def __init__(self, scale=6.0):
        self.scale = scale

    def detect(self, frame, max_faces=10, at_least=1, search_tiles=True):
        if frame.max() == FACELESS:
            return []
        height, width = frame.shape[:2]
        points = landmarks_at(width / 2, height / 2, self.scale)
        return [DetectedFace(points, np.zeros(len(BLENDSHAPE_NAMES)), 1.0, (0.0, 0.0, 1.0, 1.0))]

    def track(self, frame, previous):
        return next(iter(self.detect(frame)), None)


class ReadsBrightness(torch.nn.Module):
    """Yaw in degrees is the picture's mean brightness in levels less 100; the expression is its tenth."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.sizes = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape))
        count = len(image)
        level = 255 * image.mean(dim=(1, 2, 3))
        bins = (level - 100 + 97.5) / 3
        low = bins.floor()
        logits = torch.full((count, 66), -50.0)
        for row in range(count):
            share = float(bins[row] - low[row])
            logits[row, int(low[row])] = np.log(max(1 - share, 1e-9))
            logits[row, int(low[row]) + 1] = np.log(max(share, 1e-9))
        flat = torch.full((count, 66), -50.0)
        flat[:, 32] = flat[:, 33] = 0.0  # 0 degrees
        expression = (level / 1000)[:, None].repeat(1, 63)
        points = torch.linspace(-0.4, 0.4, 63).repeat(count, 1)
        return ExtractedMotion(
            flat, logits, flat, torch.zeros(count, 3), expression, torch.full((count, 1), 1.5), points
        )


def frames_of(levels, size=(120, 160)):
    return [np.full((*size, 3), level, np.uint8) for level in levels]


def read(levels, fps=25.0, size=(120, 160), landmarker=None, progress=None, **settings):
    frames = frames_of(levels, size)
    parameters = DriverParameters(**{"crop": "never", **settings})
    faces = follow_face(iter(frames), landmarker or KnownFace())
    return keypoint_motion_from_frames(
        lambda: iter(frames),
        faces,
        fps,
        ReadsBrightness(),
        len(frames),
        parameters,
        progress,
    )


def yaw(motion):
    """Degrees towards the picture's left, as the extractor counts them."""
    return -motion.rotation[:, 1]


class TestReading:
    def test_motion_counts_from_the_first_frame(self):
        motion = read([100, 110, 130])
        np.testing.assert_allclose(yaw(motion), [0, 10, 30], atol=0.1)
        np.testing.assert_allclose(motion.expression[:, 7], [0, 0.01, 0.03], atol=1e-4)
        np.testing.assert_allclose(-motion.rest.rotation[1], 0, atol=0.1)
        assert motion.openings.shape == (3, 3)

    def test_another_rest_frame(self):
        np.testing.assert_allclose(yaw(read([100, 110, 130], rest_frame=1)), [-10, 0, 20], atol=0.1)

    def test_every_frame_is_seen_at_the_size_of_the_network(self):
        extractor = ReadsBrightness()
        frames = frames_of([100, 110])
        faces = follow_face(iter(frames), KnownFace())
        keypoint_motion_from_frames(lambda: iter(frames), faces, 25.0, extractor, 2)
        assert {size[1:] for size in extractor.sizes} == {(3, 256, 256)}

    def test_a_picture_is_a_motion_of_one_frame(self):
        motion = read([120])
        assert motion.frame_count == 1
        np.testing.assert_allclose(motion.rotation, 0, atol=1e-5)
        assert np.abs(motion.expression).max() > 0.05, (
            "its expression counts from closed lips, not from itself"
        )

    def test_progress_counts_both_passes(self):
        seen = []
        read([100, 110, 120, 130], progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (8, 8)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert {total for _, total in seen} == {8}

    def test_another_rate_turns_rotations_as_rotations(self):
        motion = resample_motion(read(list(range(100, 130)), fps=30.0), 24.0)
        assert motion.frame_count == 24
        assert np.all(np.diff(yaw(motion)) > 0)

    def test_smoothing_leaves_the_eyes(self):
        sharp, smooth = read([100, 100, 130, 100, 100]), read([100, 100, 130, 100, 100], smoothing=1)
        points = smooth.expression.reshape(5, 21, 3)
        np.testing.assert_allclose(points[:, 11], sharp.expression.reshape(5, 21, 3)[:, 11])
        assert points[2, 19, 0] < 0.6 * sharp.expression.reshape(5, 21, 3)[2, 19, 0]


class TestMissingFaces:
    LEVELS = (100, 110, FACELESS, FACELESS, 140, 150)

    def test_error_names_the_frame(self):
        with pytest.raises(FaceNotFoundError, match=r"no face in frame 2 of the video \(at 0\.08 s\)"):
            read(self.LEVELS)

    def test_previous(self):
        np.testing.assert_allclose(
            yaw(read(self.LEVELS, on_missing_face="previous")), [0, 10, 10, 10, 40, 50], atol=0.1
        )

    def test_interpolate(self):
        np.testing.assert_allclose(
            yaw(read(self.LEVELS, on_missing_face="interpolate")), [0, 10, 20, 30, 40, 50], atol=0.1
        )

    def test_skip_is_shorter_and_says_so(self, caplog):
        with caplog.at_level(logging.WARNING):
            motion = read(self.LEVELS, on_missing_face="skip")
        np.testing.assert_allclose(yaw(motion), [0, 10, 40, 50], atol=0.1)
        assert "no face in 2 of 6 frames" in caplog.text

    @pytest.mark.parametrize("policy", ["previous", "interpolate"])
    def test_no_face_in_the_middle_third(self, policy):
        levels = [100 + index for index in range(10)] + [FACELESS] * 10 + [120 + index for index in range(10)]
        motion = read(levels, on_missing_face=policy)
        assert motion.frame_count == 30
        assert np.all(np.diff(yaw(motion)) >= -1e-3)

    def test_before_the_first_face(self):
        np.testing.assert_allclose(
            yaw(read([FACELESS, 110, 120], on_missing_face="interpolate")), [0, 0, 10], atol=0.1
        )

    @pytest.mark.parametrize("policy", ["error", "previous", "interpolate", "skip"])
    def test_never_a_face(self, policy):
        with pytest.raises(FaceNotFoundError, match="no face in"):
            read([FACELESS] * 3, on_missing_face=policy)

    def test_one_face_in_a_video_is_no_driving_picture(self):
        """It shows nothing of how the driver moves, so nothing moves."""
        motion = read([FACELESS, 120, FACELESS], on_missing_face="interpolate")
        assert motion.frame_count == 3
        np.testing.assert_allclose(motion.expression, 0, atol=1e-6)

    def test_zero_frames(self):
        with pytest.raises(ValueError, match="the video has no frames"):
            read([])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"on_missing_face": "guess"}, "on_missing_face is 'guess'"),
            ({"crop": "tight"}, "crop is 'tight'"),
        ],
    )
    def test_settings_that_do_not_exist(self, settings, message):
        with pytest.raises(ValueError, match=message):
            read([100], **settings)


class TestCrop:
    def test_automatic_leaves_a_close_square_alone(self):
        close = [landmarks_at(128, 128, 7.0)]
        assert crop_affine(close, 256, 256, "automatic") is None
        assert crop_affine(close, 256, 256, "always") is not None

    def test_automatic_cuts_a_small_face_and_a_wide_video(self):
        assert crop_affine([landmarks_at(128, 128, 2.0)], 256, 256, "automatic") is not None
        assert crop_affine([landmarks_at(256, 128, 6.0)], 512, 256, "automatic") is not None
        assert crop_affine([landmarks_at(256, 128, 6.0)], 512, 256, "never") is None

    def test_one_crop_for_the_whole_video(self):
        """Around the mean of where the face is."""
        affine = crop_affine([landmarks_at(100, 128, 6.0), landmarks_at(140, 128, 6.0)], 400, 256, "always")
        middle = affine @ np.array([256.0, 256.0, 1.0])
        assert middle[0] == pytest.approx(120, abs=2)


class TestVideo:
    def test_a_portrait_for_every_frame(self):
        film = portrait_video(frames_of([100, FACELESS, 120]), 25.0, KnownFace(), on_missing_face="previous")
        assert len(film.portraits) == 3
        assert film.size == (160, 120)
        assert [int(portrait.frame.max()) for portrait in film.portraits] == [100, 0, 120]
        np.testing.assert_allclose(film.portraits[1].landmarks, film.portraits[0].landmarks)

    def test_a_missing_face_can_be_an_error(self):
        with pytest.raises(FaceNotFoundError, match="frame 1"):
            portrait_video(frames_of([100, FACELESS]), 25.0, KnownFace(), on_missing_face="error")

    def test_frames_of_a_film_cannot_be_skipped(self):
        with pytest.raises(ValueError, match="of a film choose one of error, previous, interpolate"):
            portrait_video(frames_of([100]), 25.0, KnownFace(), on_missing_face="skip")

    def test_a_trembling_crop_is_calmed(self):
        rng = np.random.default_rng(0)
        squares = [FaceSquare((100 + x, 80 + y), 60 + s) for x, y, s in rng.normal(0, 2, (40, 3))]
        calm = smoothed_squares(squares, 4)
        assert np.std([square.side for square in calm]) < 0.6 * np.std([square.side for square in squares])
        assert len(calm) == 40

    def test_a_head_that_lies_on_its_side_does_not_spin(self):
        angles = [3.1, -3.1, 3.1, -3.1]
        calm = smoothed_squares([FaceSquare((0, 0), 10, angle) for angle in angles], 3)
        turned = np.array([square.angle for square in calm])
        assert np.abs(np.angle(np.exp(1j * (turned - np.pi)))).max() < 0.1
