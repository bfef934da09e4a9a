"""Joints out of ComfyUI's POSE_KEYPOINT: what its forms mean, whose they are, and each bad form's error."""

import numpy as np
import pytest
from talking_portrait.core_models.motion.body_joints import (
    FACE_REACH,
    NOSE_JOINT,
    SEEN_CONFIDENCE,
    BodyJoints,
    joints_of_person,
)
from talking_portrait.core_models.motion.pose_keypoints import people_of_frames

SIZE = (640, 360)
SEATED = np.array(
    [(320, 100), (320, 180), (270, 180), (250, 260), (260, 330), (370, 180), (390, 260), (380, 330)]
)
"""Nose, neck, and shoulder, elbow and wrist of right and left, in pixels of a picture of SIZE."""


def body(place=(0, 0), joints=18, confidence=1.0):
    """(J, 3) of a person moved by so many pixels, of whom the first eight joints were found."""
    rows = np.zeros((joints, 3))
    rows[:8, :2], rows[:8, 2] = SEATED + place, confidence
    return rows


def frame(*people, canvas=SIZE, **more):
    rows = [
        {"pose_keypoints_2d": None if one is None else np.asarray(one).ravel().tolist(), **more}
        for one in people
    ]
    return {"people": rows, "canvas_width": canvas[0], "canvas_height": canvas[1]}


def in_shares(joints, canvas=SIZE):
    """Joints as OpenPose's node gives them: shares of the canvas padded to multiples of 64."""
    return joints / (*(-(-side // 64) * 64 for side in canvas), 1)


def read(*frames, size=SIZE):
    return people_of_frames(list(frames), len(frames), size)


def faces(*places, side=60.0):
    """(N, 2, 2) landmarks of faces about these places; None where there is none."""
    corners = np.array([(-side / 2, -side / 2), (side / 2, side / 2)])
    return np.stack([np.full((2, 2), np.nan) if one is None else np.asarray(one) + corners for one in places])


class TestForms:
    @pytest.mark.parametrize("joints", [18, 25])
    def test_pixels_are_read_as_they_stand(self, joints):
        (found,) = read(frame(body(joints=joints)))
        assert found.shape == (1, joints, 3)
        np.testing.assert_array_equal(found[0, :8, :2], SEATED)
        assert np.isnan(found[0, 8:, :2]).all()
        np.testing.assert_array_equal(found[0, :, 2], [1] * 8 + [0] * (joints - 8))

    @pytest.mark.parametrize(("canvas", "zoom"), [(SIZE, 1), ((910, 512), 512 / 360), ((384, 180), 0.5)])
    def test_shares_of_the_padded_canvas_are_the_same_as_pixels(self, canvas, zoom):
        """Of no padding at right; of 50 pixels; and of a canvas that itself is padded, as older nodes give it."""
        shares = in_shares(body() * (zoom, zoom, 1), canvas)
        np.testing.assert_allclose(read(frame(shares, canvas=canvas))[0][0, :8], body()[:8], rtol=2e-3)

    def test_shares_of_joints_outside_of_the_picture_are_known_as_such(self):
        low = body((0, 100))
        np.testing.assert_allclose(read(frame(in_shares(low)))[0], read(frame(low))[0])

    def test_one_far_joint_of_the_video_says_that_all_are_pixels(self):
        corner = np.zeros((18, 3))
        corner[:2] = (1, 1, 1)
        assert read(frame(corner))[0][0, 0, 0] == 640
        assert read(frame(corner), frame(body()))[0][0, 0, 0] == 1

    def test_a_canvas_of_another_size_is_brought_to_the_frames(self):
        half = body() * (0.5, 0.5, 1)
        np.testing.assert_allclose(read(frame(half, canvas=(320, 180)))[0], read(frame(body()))[0])

    def test_a_canvas_padded_at_right_has_the_picture_s_own_scale(self):
        half = body() * (0.5, 0.5, 1)
        padded = read(frame(half, canvas=(384, 180)))
        np.testing.assert_allclose(padded[0], read(frame(body()))[0])

    def test_without_a_canvas_places_are_of_the_frames(self):
        bare = {"people": frame(body())["people"]}
        np.testing.assert_array_equal(read(bare)[0], read(frame(body()))[0])

    def test_joints_that_were_not_found(self):
        rows = body()
        rows[3] = 0
        holes = rows.astype(object)
        holes[4] = None
        (found,) = read({**frame(), "people": [{"pose_keypoints_2d": holes.ravel().tolist()}]})
        assert np.isnan(found[0, [3, 4], :2]).all()
        assert (found[0, [3, 4], 2] == 0).all()
        assert np.isfinite(found[0, 5]).all()

    def test_frames_without_people_and_people_without_a_body(self):
        empty, faceless, seen = read(frame(), frame(None, np.zeros(0)), frame(None, body(joints=25)))
        assert (len(empty), len(faceless), len(seen)) == (0, 0, 1)
        assert empty.shape == faceless.shape == (0, 25, 3)
        assert read(frame())[0].shape == (0, 18, 3)

    def test_what_came_in_stays_as_it_was(self):
        given = frame(body())
        before = frame(body())
        read(given)
        assert given == before


def with_row(row):
    return [{**frame(), "people": [{"pose_keypoints_2d": row}]}]


class TestBadForms:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (frame(body()), r"expected POSE_KEYPOINT \(a list.*got dict"),
            (None, "got NoneType"),
            ([frame(body())] * 3, r"holds 3 frame\(s\) and the video 1: give both nodes the same frames"),
            ([], r"holds 0 frame\(s\) and the video 1"),
            (["joints"], "frame 0 of the POSE_KEYPOINT has no list of 'people', only: str"),
            ([{}], "no list of 'people', only: nothing"),
            ([{"version": "ap10k", "animals": []}], "only: version, animals; animals are not read"),
            ([{"people": None}], "no list of 'people'"),
            ([{**frame(), "people": [7]}], "person 0 in frame 0 of the POSE_KEYPOINT is a int"),
            (with_row([1.0, 2.0]), r"joints of shape \(2,\), expected one row of numbers in threes"),
            (with_row([[1.0, 2.0, 1.0]] * 18), r"joints of shape \(18, 3\)"),
            (with_row(3.0), r"joints of shape \(\)"),
            (with_row([1.0, 2.0, 1.0] * 17), "has 17 joints, expected 18 or 25"),
            (with_row(["left"] * 54), "has joints that are not numbers"),
            (with_row([[1], 2, 3]), "has joints that are not numbers"),
            ([frame(body(), canvas=(0, 360))], "a canvas of 0 x 360, expected width and height in pixels"),
            ([frame(body(), canvas=(None, 360))], "a canvas of None x 360"),
            ([frame(body(), canvas=("wide", 360))], "a canvas of wide x 360"),
            ([frame(body(), canvas=(float("nan"), 360))], "a canvas of nan x 360"),
        ],
    )
    def test_are_named(self, value, message):
        with pytest.raises(ValueError, match=message):
            people_of_frames(value, 1, SIZE)

    def test_other_numbers_of_joints_in_other_frames(self):
        with pytest.raises(ValueError, match="18 joints of a person in frame 1 and 25 in frame 2"):
            read(frame(), frame(body()), frame(body(joints=25)))

    @pytest.mark.parametrize(
        ("positions", "confidence", "message"),
        [
            ((4, 17, 2), (4, 17), r"\(4, 17, 2\), expected \(frames, 18 or 25, 2\)"),
            ((4, 18, 3), (4, 18), r"\(4, 18, 3\)"),
            ((4, 18, 2), (4, 17), r"confidence has shape \(4, 17\), expected \(4, 18\)"),
        ],
    )
    def test_joints_of_other_shapes(self, positions, confidence, message):
        with pytest.raises(ValueError, match=message):
            BodyJoints(np.zeros(positions), np.zeros(confidence))


class TestWhose:
    HERE, THERE = (0, 0), (200, 10)

    def test_of_two_people_the_one_at_the_face_whatever_their_order(self):
        here, there = body(self.HERE), body(self.THERE)
        people = read(frame(here, there), frame(there, here), frame(here, there))
        for place, wanted in ((self.HERE, here), (self.THERE, there)):
            found = joints_of_person(people, faces(*[SEATED[NOSE_JOINT] + place] * 3))
            np.testing.assert_allclose(found.positions[:, :8], [wanted[:8, :2]] * 3)

    def test_nobody_where_only_others_are_seen(self):
        people = read(frame(body(self.HERE)), frame(body(self.THERE)), frame())
        found = joints_of_person(people, faces(*[SEATED[NOSE_JOINT]] * 3))
        assert np.isnan(found.positions[1:]).all()
        assert found.confidence[:, 0].tolist() == [1, 0, 0]
        assert found.frames_that_show([0, 1, 2]) == 1

    def test_the_neck_tells_where_the_nose_was_not_found(self):
        turned = body()
        turned[NOSE_JOINT] = 0
        people, place = read(frame(turned, body(self.THERE))), faces(SEATED[NOSE_JOINT])
        np.testing.assert_allclose(joints_of_person(people, place).positions[0, 1], SEATED[1])
        unknown = turned.copy()
        unknown[1] = 0
        with pytest.raises(ValueError, match="shows nobody at the face in any of 1 frames"):
            joints_of_person(read(frame(unknown)), place)

    def test_a_missed_face_is_where_the_frames_around_say(self):
        moving = [(100.0 * step, 0) for step in range(3)]
        people = read(*(frame(body(one), body((250, 0))) for one in moving))
        seen = [SEATED[NOSE_JOINT] + one for one in moving]
        found = joints_of_person(people, faces(seen[0], None, seen[2]))
        np.testing.assert_allclose(found.positions[:, 0], seen)

    def test_reach_is_in_sizes_of_the_face(self):
        people, place = read(frame(body())), SEATED[NOSE_JOINT] + (100, 0)
        assert np.isfinite(
            joints_of_person(people, faces(place, side=101 / FACE_REACH)).positions[0, 0]
        ).all()
        with pytest.raises(ValueError, match="nobody at the face"):
            joints_of_person(people, faces(place, side=99 / FACE_REACH))

    def test_without_a_face_the_most_confident_is_followed_both_ways(self):
        sure, unsure = body(self.THERE, confidence=0.9), body(self.HERE, confidence=0.8)
        dim = body(self.THERE, confidence=0.4)
        people = read(frame(unsure, dim), frame(), frame(unsure, sure), frame(dim, unsure))
        for landmarks in (None, np.full((4, 9, 3), np.nan)):
            found = joints_of_person(people, landmarks)
            assert found.confidence[:, 0] == pytest.approx([0.4, 0, 0.9, 0.4])
        with pytest.raises(ValueError, match="shows nobody in any of 2 frames"):
            joints_of_person(read(frame(), frame()))

    def test_another_number_of_landmarks(self):
        with pytest.raises(ValueError, match="landmarks of 2 frames and joints of 1"):
            joints_of_person(read(frame(body())), faces((0, 0), (0, 0)))

    def test_joints_count_above_a_confidence(self):
        rows = body()
        rows[2:4, 2] = SEEN_CONFIDENCE, SEEN_CONFIDENCE + 0.01
        seen = joints_of_person(read(frame(rows))).seen_positions[0]
        assert np.isnan(seen[2]).all()
        assert np.isfinite(seen[3]).all()
