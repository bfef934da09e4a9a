"""The renderer for implicit keypoints around its networks: crop, paste-back, films, strengths. Networks are doubles."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from talking_portrait.core_models.motion.keypoint_driving import DrivingParameters
from talking_portrait.core_models.motion.motion_extractor import ExtractedMotion
from talking_portrait.core_models.rendering.liveportrait.keypoint_renderer import (
    KeypointNetworks,
    KeypointRenderer,
    KeypointRendererParameters,
)
from talking_portrait.core_models.rendering.liveportrait.portrait_motion import stitched_motion
from talking_portrait.core_models.rendering.liveportrait.portrait_reading import read_portrait
from talking_portrait.core_models.rendering.liveportrait.retargeting import RetargetingNetworks
from talking_portrait.core_models.rendering.source_video import motion_at_video_rate
from talking_portrait.core_models.types import BLENDSHAPES, IMPLICIT_KEYPOINTS, FaceMotion, PortraitVideo


class SteadyExtractor(torch.nn.Module):
    """Reads the same face in every picture, its translation the mean of the picture's red."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        count = len(image)
        points = torch.linspace(-0.4, 0.4, 63).repeat(count, 1)
        logits = torch.zeros(count, 66)
        logits[:, 33] = 30.0  # 1.5 degrees
        shift = torch.zeros(count, 3)
        shift[:, 0] = image[:, 0].mean(dim=(1, 2))
        return ExtractedMotion(
            logits, logits, logits, shift, torch.zeros(count, 63), torch.full((count, 1), 1.5), points
        )


class PictureAsAppearance(torch.nn.Module):
    """The appearance of a picture is the picture."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image


@dataclass
class Prepared:
    picture: torch.Tensor
    keypoints: torch.Tensor


class ShowSource:
    """Gives the source's own picture back, enlarged, whatever the keypoints; remembers them."""

    def __init__(self):
        self.batches = []
        self.prepared = 0

    def prepare(self, features, keypoints):
        self.prepared += 1
        return Prepared(features, keypoints)

    def generate(self, source, keypoints, check=None):
        if check is not None:
            check()
        self.batches.append(keypoints.numpy().copy())
        enlarged = torch.nn.functional.interpolate(source.picture, (512, 512), mode="bicubic")
        return enlarged.clamp(0, 1).repeat(len(keypoints), 1, 1, 1)


@pytest.fixture
def networks():
    return KeypointNetworks(PictureAsAppearance(), SteadyExtractor(), ShowSource())


def moving(count=5, fps=25.0):
    motion = FaceMotion.at_rest(count, fps, IMPLICIT_KEYPOINTS)
    rotation = np.zeros((count, 3))
    rotation[:, 1] = np.linspace(0, 20, count)
    return replace(motion, rotation=rotation, expression=np.full((count, 63), 0.01))


def video_of(portrait, count, fps=25.0):
    shades = [np.clip(portrait.frame.astype(int) - 10 * index, 0, 255) for index in range(count)]
    return PortraitVideo(tuple(replace(portrait, frame=shade) for shade in shades), fps)


class TestPicture:
    def test_a_crop_that_shows_the_source_is_laid_where_it_came_from(self, astronaut_portrait, networks):
        """Half a pixel off, or mirrored, or turned, and the fine hair and the helmet's rim would not cancel."""
        (frame,) = KeypointRenderer(astronaut_portrait, networks).frames(moving(1))
        picture = astronaut_portrait.frame
        crop = cv2.invertAffineTransform(astronaut_portrait.crop_to_frame)
        ones = cv2.warpAffine(np.ones((512, 512)), astronaut_portrait.crop_to_frame, astronaut_portrait.size)
        assert (frame[ones == 0] == picture[ones == 0]).all(), "outside the crop nothing changes"
        soft = cv2.GaussianBlur(picture, (0, 0), 0.8 * max(1.0, 2 / np.hypot(*crop[:, 0])))
        here = np.abs(frame.astype(float) - soft)[ones > 0].mean()
        moved = np.abs(frame.astype(float) - np.roll(soft, 2, axis=1))[ones > 0].mean()
        assert here < 4
        assert moved > 1.5 * here

    def test_crops_come_bare_when_not_pasted(self, astronaut_portrait, networks):
        renderer = KeypointRenderer(
            astronaut_portrait, networks, KeypointRendererParameters(paste_back=False)
        )
        frames = list(renderer.frames(moving(2)))
        assert [frame.shape for frame in frames] == [(512, 512, 3)] * 2
        assert renderer.size == (512, 512)

    def test_source_is_prepared_once(self, astronaut_portrait, networks):
        list(KeypointRenderer(astronaut_portrait, networks).frames(moving(4)))
        assert networks.frame_generator.prepared == 1

    @pytest.mark.parametrize("batch", [1, 2, 3, 16])
    def test_batches_change_nothing(self, astronaut_portrait, networks, batch):
        parameters = KeypointRendererParameters(batch=batch)
        frames = list(KeypointRenderer(astronaut_portrait, networks, parameters).frames(moving(5)))
        assert len(frames) == 5
        sizes = [len(points) for points in networks.frame_generator.batches]
        assert sizes == [batch] * (5 // batch) + ([5 % batch] if 5 % batch else [])
        points = np.concatenate(networks.frame_generator.batches)
        assert (np.abs(np.diff(points, axis=0)).max(axis=(1, 2)) > 1e-3).all(), (
            "each frame has its own keypoints"
        )

    def test_motion_at_rest_is_the_portraits_own_keypoints(self, astronaut_portrait, networks):
        renderer = KeypointRenderer(astronaut_portrait, networks)
        list(renderer.frames(FaceMotion.at_rest(1, 25.0, IMPLICIT_KEYPOINTS)))
        np.testing.assert_allclose(
            networks.frame_generator.batches[0], renderer.readings.keypoints, atol=1e-5
        )

    def test_strengths(self, astronaut_portrait, networks):
        still = KeypointRendererParameters(expression_strength=0.0, head_strength=0.0)
        renderer = KeypointRenderer(astronaut_portrait, networks, still)
        list(renderer.frames(moving(3)))
        points = np.concatenate(networks.frame_generator.batches) - renderer.readings.keypoints
        moved = np.abs(points).max(axis=(0, 2)) > 1e-6
        assert set(np.flatnonzero(moved)) == {11, 13, 15, 16, 18}, "only lids and gaze are left"

    def test_cancelling_ends_it_within_a_frame(self, astronaut_portrait, networks):
        class Cancelled(Exception):
            pass

        def progress(done, total):
            if done == 2:
                raise Cancelled

        frames = KeypointRenderer(astronaut_portrait, networks).frames(moving(50), progress)
        with pytest.raises(Cancelled):
            list(frames)
        assert len(networks.frame_generator.batches) <= 3

    def test_blendshapes_are_refused(self, astronaut_portrait, networks):
        renderer = KeypointRenderer(astronaut_portrait, networks)
        with pytest.raises(ValueError, match="Retarget Motion"):
            list(renderer.frames(FaceMotion.at_rest(2, 25.0, BLENDSHAPES)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"head_strength": 2.1}, "head_strength is 2.1"), ({"batch": -1}, "batch is -1")],
    )
    def test_settings_out_of_range(self, settings, message):
        with pytest.raises(ValueError, match=message):
            KeypointRendererParameters(**settings)


class TestVideo:
    def test_each_frame_is_rendered_onto_its_own_and_back_again(self, astronaut_portrait, networks):
        film = video_of(astronaut_portrait, 3)
        frames = list(KeypointRenderer(film, networks).frames(moving(6)))
        shades = [frame[0, 0].astype(int) for frame in frames]
        expected = [film.portraits[row].frame[0, 0].astype(int) for row in (0, 1, 2, 1, 0, 1)]
        np.testing.assert_array_equal(shades, expected)
        assert networks.frame_generator.prepared == 6

    def test_rows(self, astronaut_portrait):
        assert video_of(astronaut_portrait, 1).rows(3).tolist() == [0, 0, 0]
        assert video_of(astronaut_portrait, 2).rows(5).tolist() == [0, 1, 0, 1, 0]
        assert video_of(astronaut_portrait, 4).rows(3).tolist() == [0, 1, 2]

    def test_motion_comes_at_the_films_rate(self, astronaut_portrait, networks):
        film = video_of(astronaut_portrait, 3, fps=30.0)
        assert motion_at_video_rate(moving(25), film).frame_count == 30
        held = motion_at_video_rate(moving(1), film)
        assert (held.frame_count, held.fps) == (3, 30.0)
        plain = DrivingParameters(stitching=False)
        extractor = networks.motion_extractor
        fitted = stitched_motion(moving(25), film, plain, extractor, RetargetingNetworks())
        assert (fitted.frame_count, fitted.fps) == (30, 30.0)
        assert stitched_motion(moving(1), film, plain, extractor, RetargetingNetworks()).frame_count == 3

    def test_frames_of_two_sizes_are_refused(self, astronaut_portrait):
        other = replace(astronaut_portrait, frame=np.zeros((64, 64, 3), np.uint8))
        with pytest.raises(ValueError, match="must be of one size"):
            PortraitVideo((astronaut_portrait, other), 25.0)

    def test_no_frames_are_refused(self):
        with pytest.raises(ValueError, match="no frames"):
            PortraitVideo((), 25.0)


def test_reading_a_portrait(astronaut_portrait, networks):
    readings = read_portrait(astronaut_portrait, networks.motion_extractor)
    assert readings.frame_count == 1
    assert readings.openings.shape == (1, 3)
    assert 0.05 < readings.openings[0, 2] < 0.4, "she smiles with her teeth apart from her lips"
    film = read_portrait(video_of(astronaut_portrait, 4), networks.motion_extractor)
    assert film.frame_count == 4
    assert (np.diff(film.translation[:, 0]) < 0).all(), "each frame is read from its own, darker, picture"
