"""Portraits, and every picture, box and set of landmarks that makes none."""

import logging

import numpy as np
import pytest
from talking_portrait.core_models.face.landmarker import DetectedFace, FaceNotFoundError
from talking_portrait.core_models.face.picture import load_picture
from talking_portrait.core_models.face.portrait import (
    choose_face,
    portrait_from_frame,
    portrait_from_landmarks,
    turned_away_warning,
)
from talking_portrait.core_models.face.pose import project_shape
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, HeadPose

GREY = np.full((240, 320, 3), 128, np.uint8)


def face_at(x, width):
    landmarks = np.zeros((478, 3))
    return DetectedFace(landmarks, np.zeros(52), 1.0, (float(x), 10.0, float(width), float(width)))


def made_landmarks(yaw=0.0, centre=(160, 120), scale=10.0):
    """The canonical face seen by a camera, with irises."""
    pose = HeadPose((0, yaw, 0), (centre[0], -centre[1], 0), scale)
    return project_shape(canonical_face().vertices, pose)


def test_found_and_given_landmarks_make_the_same_portrait(astronaut, astronaut_landmarks, landmarker):
    found = portrait_from_frame(astronaut, landmarker)
    given = portrait_from_landmarks(astronaut, astronaut_landmarks.landmarks, astronaut_landmarks.blendshapes)
    np.testing.assert_allclose(found.landmarks, given.landmarks, atol=0.3)
    np.testing.assert_allclose(found.pose.rotation, given.pose.rotation, atol=0.5)
    np.testing.assert_allclose(found.crop_to_frame, given.crop_to_frame, atol=0.5)
    np.testing.assert_array_equal(found.frame, astronaut)
    assert given.presence == 1
    assert found.size == (512, 512)


def test_box_by_hand(astronaut, astronaut_portrait, landmarker):
    portrait = portrait_from_frame(astronaut, landmarker, box=(160, 50, 130, 140))
    np.testing.assert_allclose(portrait.landmarks[:, :2], astronaut_portrait.landmarks[:, :2], atol=1.5)


def test_blendshapes_by_name_and_left_out(astronaut, astronaut_landmarks):
    named = portrait_from_landmarks(astronaut, astronaut_landmarks.landmarks, {"jawOpen": 0.5})
    assert named.blendshapes[BLENDSHAPE_INDEX["jawOpen"]] == 0.5
    relaxed = portrait_from_landmarks(astronaut, astronaut_landmarks.landmarks)
    assert not relaxed.blendshapes.any()


def test_landmarks_without_irises_get_some_in_the_eyes(astronaut, astronaut_landmarks):
    portrait = portrait_from_landmarks(astronaut, astronaut_landmarks.landmarks[:468])
    eye_width = np.linalg.norm(astronaut_landmarks.landmarks[33] - astronaut_landmarks.landmarks[133])
    gap = np.linalg.norm((portrait.landmarks - astronaut_landmarks.landmarks)[468:, :2], axis=1)
    assert gap.max() < 0.25 * eye_width


def test_nothing_to_find_names_picture_and_remedy(landmarker):
    chelsea = pytest.importorskip("skimage.data").chelsea()
    with pytest.raises(FaceNotFoundError, match=r"no face in the 451 x 300 px picture.*box"):
        portrait_from_frame(chelsea, landmarker)


def test_one_pixel(landmarker):
    with pytest.raises(FaceNotFoundError, match="1 x 1 px"):
        portrait_from_frame(np.zeros((1, 1, 3), np.uint8), landmarker)


def test_two_faces_need_an_index(shared_data, landmarker):
    picture = load_picture(shared_data / "portraits" / "two_faces_car.jpg")
    with pytest.raises(ValueError, match=r"2 faces.*set face_index.*0: 2\d\d x .*; 1: 1\d\d x "):
        portrait_from_frame(picture, landmarker)
    left, right = (portrait_from_frame(picture, landmarker, face_index=index) for index in (0, 1))
    assert left.landmarks[1, 0] < 640 < right.landmarks[1, 0]
    with pytest.raises(ValueError, match=r"face_index is 2 but the picture has 2 face"):
        portrait_from_frame(picture, landmarker, face_index=2)


def test_choice_among_faces():
    assert choose_face([face_at(0, 100), face_at(200, 60)], GREY, None).box[2] == 100  # 2.8 times the area
    with pytest.raises(ValueError, match="none clearly the largest"):
        choose_face([face_at(0, 100), face_at(200, 80)], GREY, None)
    assert choose_face([face_at(0, 100), face_at(200, 80)], GREY, 1).box[2] == 80
    with pytest.raises(ValueError, match="face_index is -1"):
        choose_face([face_at(0, 100)], GREY, -1)
    with pytest.raises(FaceNotFoundError):
        choose_face([], GREY, None)


def test_face_cut_by_the_border(astronaut, astronaut_landmarks, landmarker):
    """A quarter of the face may be missing; half of it may not, whoever found it."""
    portrait = portrait_from_frame(np.ascontiguousarray(astronaut[:150]), landmarker)
    whole = astronaut_landmarks.landmarks
    assert np.linalg.norm((portrait.landmarks - whole)[:, :2], axis=1).mean() < 0.05 * np.ptp(whole[:, 0])
    with pytest.raises(ValueError, match=r"cut by the border of the 512 x 125 px picture: only \d\d%"):
        portrait_from_landmarks(np.ascontiguousarray(astronaut[:125]), whole)
    with pytest.raises(ValueError, match=r"no face|cut by the border"):
        portrait_from_frame(np.ascontiguousarray(astronaut[:125]), landmarker)


def test_profile_is_refused_and_half_profile_warned_about(caplog):
    with pytest.raises(ValueError, match=r"turned 50 degrees.*at most 45"):
        portrait_from_landmarks(GREY, made_landmarks(50))
    with pytest.raises(ValueError, match="turned 60 degrees"):
        portrait_from_landmarks(GREY, made_landmarks(-60))
    with caplog.at_level(logging.WARNING):
        half = portrait_from_landmarks(GREY, made_landmarks(-35))
    assert "turned 35 degrees" in caplog.text
    assert half.pose.rotation[1] == pytest.approx(-35, abs=0.1)
    caplog.clear()
    frontal = portrait_from_landmarks(GREY, made_landmarks(20))
    assert turned_away_warning(frontal) is None
    assert caplog.text == ""


def test_photo_of_a_profile_is_refused(landmarker):
    """skimage's cameraman looks away by about 50 degrees."""
    camera = np.repeat(pytest.importorskip("skimage.data").camera()[..., None], 3, axis=2)
    with pytest.raises(ValueError, match="degrees from the camera"):
        portrait_from_frame(camera, landmarker)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 3), "four numbers"),
        ((10, 10, 0, 50), "is empty"),
        ((10, 10, 50, -5), "is empty"),
        ((600, 10, 50, 50), "outside the 512 x 512 px picture"),
        ((-90, 10, 50, 50), "outside"),
        ((float("nan"), 10, 50, 50), "four numbers"),
        ((300, 300, 100, 100), "no face in the box 100 x 100 px at"),
    ],
)
def test_boxes_that_hold_no_face(box, message, astronaut, landmarker):
    with pytest.raises(ValueError, match=message):
        portrait_from_frame(astronaut, landmarker, box=box)


@pytest.mark.parametrize("count", [0, 1, 68, 467, 479])
def test_wrong_count_of_landmarks(count, astronaut):
    with pytest.raises(ValueError, match=rf"shape \({count}, 3\); expected 478"):
        portrait_from_landmarks(astronaut, np.ones((count, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: points[:, :2], r"shape \(478, 2\)"),
        (lambda points: np.where(np.arange(478)[:, None] == 7, np.nan, points), "landmark 7 is"),
        (lambda points: points * 0 + 3, "span no area"),
        (lambda points: points / 512, "shares of the picture's size"),
        (lambda points: points + 4000, "cut by the border"),
    ],
)
def test_landmarks_that_make_no_face(change, message, astronaut, astronaut_landmarks):
    with pytest.raises(ValueError, match=message):
        portrait_from_landmarks(astronaut, change(astronaut_landmarks.landmarks))


def test_blendshapes_that_are_none(astronaut, astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    with pytest.raises(ValueError, match="jawWide"):
        portrait_from_landmarks(astronaut, points, {"jawWide": 0.5})
    with pytest.raises(ValueError, match=r"0\.\.1"):
        portrait_from_landmarks(astronaut, points, np.full(52, 1.5))
    with pytest.raises(ValueError, match=r"\(51,\)"):
        portrait_from_landmarks(astronaut, points, np.zeros(51))


@pytest.mark.parametrize("picture", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), None])
def test_pictures_of_another_kind(picture, astronaut_landmarks):
    with pytest.raises(ValueError, match="uint8 RGB"):
        portrait_from_landmarks(picture, astronaut_landmarks.landmarks)
