"""What ACTalker reads of a driving video: where the crops lie, and the numbers of each frame."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.topology import FACE_OVAL, LIPS_CONTOUR, canonical_face
from talking_portrait.core_models.motion.expression_and_pose import (
    CPU_CHUNK,
    CROP_SIZE,
    FEATURE_POINTS,
    DrivingCrops,
    ExpressionAndPoseNetworks,
    driving_crops,
    expression_and_pose,
    expression_square,
    head_square,
    load_expression_and_pose,
)
from talking_portrait.core_models.motion.expression_network import ExpressionNetworkParameters
from talking_portrait.core_models.motion.head_pose_network import HeadPoseNetworkParameters
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.core_models.video_diffusion.actalker.condition_projections import (
    MotionProjection,
    MotionProjectionParameters,
)

EXPRESSION = ExpressionNetworkParameters((1, 1), (4, 8), features=5)
POSE = HeadPoseNetworkParameters((1, 1), (4, 8), groups=2)


def face_points(middle=(160.0, 120.0), pixels_per_centimetre=6.0):
    """The canonical face in a picture, irises included."""
    points = np.zeros((478, 3), np.float32)
    points[:468] = canonical_face().vertices * [1, -1, 1] * pixels_per_centimetre
    points[468:] = points[6]
    points[:, :2] += middle
    return points


def picture(width=320, height=240, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    made = ExpressionAndPoseNetworks(EXPRESSION, POSE).eval().requires_grad_(False)
    made.pose.head_pose_net.fc.weight.mul_(0.2)
    return made


class TestExpressionCrop:
    def test_it_is_the_release_s_box_over_brows_eyes_nose_and_mouth(self):
        """Half side and middle by the release's formula, on points of which only the parts' box is known."""
        points = np.zeros((478, 3), np.float32)
        points[list(FEATURE_POINTS), :2] = (100, 80)
        points[FEATURE_POINTS[0], :2], points[FEATURE_POINTS[1], :2] = (71.9, 60.2), (134.6, 151.4)
        # box 71.9..134.6 x 60.2..151.4: middle (103.25, 105.8), larger side 91.2
        assert expression_square(points) == (103 - 45, 105 - 45, 103 + 45, 105 + 45)

    def test_the_outline_of_the_face_does_not_count_and_the_mouth_does(self):
        points = face_points()
        left, top, right, bottom = expression_square(points)
        assert right - left == bottom - top
        moved = points.copy()
        moved[list(FACE_OVAL)] += 40
        assert expression_square(moved) == (left, top, right, bottom)
        opened = points.copy()
        opened[list(LIPS_CONTOUR), 1] += 40
        assert expression_square(opened)[3] > bottom
        chin, forehead = points[152, 1], points[10, 1]
        assert forehead < top < points[105, 1]
        assert points[17, 1] <= bottom < chin

    def test_its_pixels_are_those_of_the_square(self):
        """A square of exactly 256 px is not resized."""
        points = face_points((300, 300), 1.0)
        parts = points[list(FEATURE_POINTS), :2]
        points[:, :2] = (points[:, :2] - parts.mean(axis=0)) * 256.5 / np.ptp(parts, axis=0).max() + (
            300,
            300,
        )
        frame = picture(640, 600)
        left, top, right, bottom = expression_square(points)
        assert (right - left, bottom - top) == (CROP_SIZE, CROP_SIZE)
        crop = driving_crops([frame], [points]).of_frame(0).expression
        assert np.array_equal(crop, frame[top:bottom, left:right])

    def test_it_is_black_outside_the_picture(self):
        crop = (
            driving_crops([np.full((240, 320, 3), 200, np.uint8)], [face_points((0, 120))])
            .of_frame(0)
            .expression
        )
        assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
        assert not crop[:, :100].any()
        assert (crop[:, 150:] == 200).all()


class TestHeadCrop:
    def test_it_is_the_first_frame_s_for_all_frames(self):
        points = [face_points(), face_points((200, 130))]
        crops = driving_crops([picture(seed=1), picture(seed=2)], points)
        assert crops.head_square == head_square(points[0], (320, 240))
        assert expression_square(points[0]) != expression_square(points[1])

    def test_the_box_is_widened_by_itself_on_every_side(self):
        points = face_points((1000, 900))
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        left, top, right, bottom = head_square(points, (3000, 3000))
        side = 3 * (high - low).min()
        assert (right - left, bottom - top) == pytest.approx((side, side), abs=1)
        assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx(tuple((low + high) / 2), abs=1)

    @pytest.mark.parametrize("middle", [(160, 120), (30, 120), (300, 200), (160, 10)])
    def test_it_stays_in_the_picture_as_near_to_the_face_as_it_can(self, middle):
        left, top, right, bottom = head_square(face_points(middle), (320, 240))
        assert left >= 0
        assert top >= 0
        assert right <= 320
        assert bottom <= 240
        assert abs((right - left) - (bottom - top)) <= 1
        assert left <= middle[0] <= right
        assert top <= middle[1] <= bottom

    def test_a_face_outside_the_picture_is_refused(self):
        with pytest.raises(ValueError, match="outside the first frame of 320 x 240"):
            driving_crops([picture()], [face_points((1000, 120))])


class TestMotion:
    def test_one_frame_of_a_picture(self, networks):
        motion = expression_and_pose(networks, driving_crops(picture()[None], face_points()[None]))
        assert motion.shape == (1, 11)
        assert motion.dtype == torch.float32
        assert motion[0, 5:8].abs().max() <= 180
        assert motion[0, 8:].abs().max() <= 2
        parameters = MotionProjectionParameters(features=5, width=16)
        assert MotionProjection(parameters)(motion).shape == (1, 16)

    def test_networks_see_their_crops_in_their_ranges(self, networks):
        crops = driving_crops([picture()], [face_points()])
        face = torch.from_numpy(crops.of_frame(0).expression).permute(2, 0, 1)[None] / 255
        head = torch.from_numpy(crops.of_frame(0).head).permute(2, 0, 1)[None] / 127.5 - 1
        expected = torch.cat([networks.expression(face), *networks.pose(head)], dim=1)
        torch.testing.assert_close(expression_and_pose(networks, crops), expected, atol=1e-4, rtol=1e-4)

    def test_frames_are_read_a_few_at_a_time_and_do_not_see_each_other(self, networks):
        count, told = CPU_CHUNK + 2, []
        frames = [picture(seed=index) for index in range(count)]
        crops = driving_crops(frames, [face_points()] * count)
        motion = expression_and_pose(networks, crops, lambda *numbers: told.append(numbers))
        assert told == [(CPU_CHUNK, count), (count, count)]
        assert len(np.unique(motion[:, 0].numpy())) == count
        for index in (0, count - 1):
            alone = expression_and_pose(networks, driving_crops([frames[index]], [face_points()]))
            torch.testing.assert_close(alone[0], motion[index], atol=1e-4, rtol=1e-4)

    def test_the_same_frames_give_the_same_numbers_and_stay_as_they_are(self, networks):
        frames, points = picture()[None], face_points()[None]
        before = frames.copy(), points.copy()
        one, other = (expression_and_pose(networks, driving_crops(frames, points)) for _ in range(2))
        assert torch.equal(one, other)
        assert np.array_equal(frames, before[0])
        assert np.array_equal(points, before[1])

    def test_a_hundred_crops_take_no_memory_before_they_are_read(self):
        frames = np.broadcast_to(picture(), (100, 240, 320, 3))
        crops = driving_crops(frames, np.broadcast_to(face_points(), (100, 478, 3)))
        assert len(crops) == 100
        assert crops.frames is frames

    def test_each_frame_is_asked_for_once_and_the_first_once_more_for_its_size(self, networks):
        asked = []

        class Film(list):
            def __getitem__(self, index):
                asked.append(index)
                return super().__getitem__(index)

            def __iter__(self):
                return (self[index] for index in range(len(self)))

        film = Film(picture(seed=index) for index in range(3))
        crops = driving_crops(film, [face_points()] * 3)
        assert asked == [0]
        expression_and_pose(networks, crops)
        assert asked == [0, 0, 1, 2]

    def test_numbers_that_overflow_are_refused(self):
        made = ExpressionAndPoseNetworks(EXPRESSION, POSE).requires_grad_(False)
        made.expression.resnet50.fc.weight.mul_(float("inf"))
        with pytest.raises(ValueError, match=r"frames 0 to 0 is not finite in torch\.float32"):
            expression_and_pose(made, driving_crops([picture()], [face_points()]))


class TestBadInput:
    def test_no_frames(self):
        with pytest.raises(ValueError, match="has no frames"):
            driving_crops([], [])

    def test_other_numbers_of_landmarks(self):
        with pytest.raises(ValueError, match="2 frames but landmarks for 1"):
            driving_crops([picture(), picture()], [face_points()])

    @pytest.mark.parametrize(
        "frame", [picture().astype(np.float32), picture()[..., :1], picture(100, 50), picture()[:0]]
    )
    def test_frames_of_another_kind(self, frame, networks):
        with pytest.raises(ValueError, match="frame 1 of the driving video is"):
            expression_and_pose(networks, driving_crops([picture(), frame], [face_points()] * 2))

    @pytest.mark.parametrize("frame", [picture().astype(np.float32), picture()[..., :1], picture()[0, 0]])
    def test_a_first_frame_of_another_kind(self, frame):
        with pytest.raises(ValueError, match="frame 0 of the driving video is"):
            driving_crops([frame], [face_points()])

    @pytest.mark.parametrize("spoiled", [np.full((478, 3), np.nan), np.zeros((478, 3)), np.zeros((68, 2))])
    def test_landmarks_of_no_face(self, spoiled):
        with pytest.raises(ValueError, match=r"frame 1 of the driving video: .*of the frame before"):
            driving_crops([picture()] * 2, [face_points(), spoiled])


def checkpoint(networks):
    """A dictionary laid out like the published one."""
    generator = {
        f"expression_model.{name}": value for name, value in networks.expression.state_dict().items()
    }
    generator["decoder.weight"] = torch.ones(2)
    return {
        "generator": generator,
        "pose_model": networks.pose.state_dict(),
        "discriminator": {"w": torch.ones(1)},
    }


class TestLoading:
    def test_both_networks_of_one_file(self, networks, tmp_path):
        path = tmp_path / "MX31c_32k.ckpt"
        torch.save(checkpoint(networks), path)
        loaded = load_expression_and_pose(path, expression=EXPRESSION, pose=POSE)
        crops = driving_crops([picture()], [face_points()])
        assert torch.equal(expression_and_pose(loaded, crops), expression_and_pose(networks, crops))
        assert not loaded.training

    def test_all_faults_are_listed(self, networks, tmp_path):
        path, content = tmp_path / "MX31c_32k.ckpt", checkpoint(networks)
        del content["generator"]["expression_model.resnet50.fc.bias"]
        content["generator"]["expression_model.novel"] = torch.ones(1)
        content["pose_model"]["head_pose_net.fc.bias"] = torch.ones(5)
        torch.save(content, path)
        with pytest.raises(WeightMismatchError) as fault:
            load_expression_and_pose(path, expression=EXPRESSION, pose=POSE)
        for part in (
            "Missing: ['expression.resnet50.fc.bias']",
            "Unexpected: ['expression.novel']",
            "pose.head_pose_net.fc.bias is (5,), expected (6,)",
        ):
            assert part in str(fault.value)


def test_a_real_portrait_is_framed_from_brow_to_lip(astronaut, astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    crops = driving_crops([astronaut], [points])
    assert isinstance(crops, DrivingCrops)
    left, top, right, bottom = expression_square(points)
    parts = points[list(FEATURE_POINTS), :2]
    assert (parts.min(axis=0) >= (left - 1, top - 1)).all()
    assert (parts.max(axis=0) <= (right + 2, bottom + 2)).all()
    first, upper, last, lower = crops.head_square
    assert first < left
    assert right < last
    assert upper < top
    assert bottom < lower
