"""Crops from the face mesh's own points, and the one crop of a driving video."""

import cv2
import numpy as np
import pytest
from talking_portrait.core_models.face.anchored_crop import (
    CROP_ANCHORS,
    FaceSquare,
    anchored_square,
)
from talking_portrait.core_models.face.crop import apply_affine, face_crop_to_frame
from talking_portrait.core_models.face.driving_crop import (
    average_square,
    driving_crop_to_frame,
    driving_square,
)
from talking_portrait.core_models.face.topology import FACE_OVAL, mirror_indices
from talking_portrait.core_models.motion.keypoint_extraction import network_picture

POINTS_OF_68 = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),
)
"""Where the 68 points of dlib and iBUG lie on the mesh."""


def test_anchors_are_symmetric():
    mirror = mirror_indices()
    anchors = CROP_ANCHORS[478]
    assert sorted(mirror[list(anchors.left_eye)]) == sorted(anchors.right_eye)
    assert sorted(mirror[list(anchors.lips)]) == sorted(anchors.lips)
    assert sorted(mirror[list(anchors.box)]) == sorted(anchors.box)
    assert not set(anchors.box) & {10, 109, 338, 67, 297}  # no forehead
    assert 152 in anchors.box
    assert set(anchors.box) & set(FACE_OVAL) >= {127, 356, 234, 454}


def test_mesh_crop_agrees_with_that_of_68_points(astronaut_landmarks):
    """The same face by the places of another landmark set gives the same crop, within a percent of its side."""
    points = astronaut_landmarks.landmarks
    mesh = anchored_square(points, 2.3, vy_ratio=-0.125)
    other = anchored_square(points[list(POINTS_OF_68)], 2.3, vy_ratio=-0.125)
    assert mesh.side == pytest.approx(other.side, rel=0.01)
    assert np.linalg.norm(np.subtract(mesh.centre, other.centre)) < 0.01 * other.side
    assert np.degrees(mesh.angle - other.angle) == pytest.approx(0, abs=0.5)


def test_irises_and_depth_do_not_count(astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    assert anchored_square(points, 2.3) == anchored_square(points[:468], 2.3)
    assert anchored_square(points, 2.3) == anchored_square(points[:, :2], 2.3)


@pytest.mark.parametrize("angle", [-170.0, -60.0, 30.0, 90.0])
def test_crop_turns_and_grows_with_the_face(astronaut_landmarks, angle):
    points = astronaut_landmarks.landmarks[:, :2].astype(np.float64)
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    first = anchored_square(points, 2.3, 0.1, -0.125)
    second = anchored_square(points @ rotation.T * 1.7 + (30, -8), 2.3, 0.1, -0.125)
    assert second.side == pytest.approx(1.7 * first.side, rel=1e-6)
    difference = np.degrees(second.angle - first.angle) - angle
    assert (difference + 180) % 360 - 180 == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(second.centre, rotation @ first.centre * 1.7 + (30, -8), atol=0.01)
    # In the two crops the face lies alike.
    in_first = apply_affine(first.frame_to_crop(512), points)
    in_second = apply_affine(second.frame_to_crop(512), points @ rotation.T * 1.7 + (30, -8))
    np.testing.assert_allclose(in_first, in_second, atol=0.1)


def test_the_centre_lands_where_the_release_puts_it():
    square = FaceSquare((100.0, 80.0), 64.0, 0.3)
    centre = apply_affine(square.frame_to_crop(512), np.array([[100.0, 80.0]]))
    np.testing.assert_allclose(centre, [[256, 256]], atol=1e-3)
    corners = apply_affine(square.frame_to_crop(512), square.corners())
    np.testing.assert_allclose(corners, [[0, 0], [512, 0], [512, 512], [0, 512]], atol=1e-2)


def test_portrait_crop_is_the_source_crop(astronaut_portrait):
    square = anchored_square(astronaut_portrait.landmarks, 2.3, vy_ratio=-0.125)
    np.testing.assert_array_equal(astronaut_portrait.crop_to_frame, square.crop_to_frame(512))
    np.testing.assert_array_equal(face_crop_to_frame(astronaut_portrait.landmarks), square.crop_to_frame(512))


def test_source_pictures_are_averaged_and_driving_pictures_sampled():
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, 1::3] = 255  # the middle column of every three
    assert np.abs(network_picture(stripes, size=32).astype(int) - 85).max() <= 1
    assert (network_picture(stripes, cv2.INTER_LINEAR, 32) == 255).all()


def test_driving_crop_is_the_mean_box(astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    single = anchored_square(points, 2.2, vy_ratio=-0.1)
    shifts = np.array([[0, 0, 0], [10, 0, 0], [20, 6, 0]], np.float32)
    track = points + shifts[:, None]
    square = driving_square(track)
    assert square.angle == 0
    assert square.side == pytest.approx(single.side, rel=1e-5)
    np.testing.assert_allclose(square.centre, np.add(single.centre, (10, 2)), atol=1e-3)
    affine = driving_crop_to_frame(track, 256)
    assert affine[0, 1] == affine[1, 0] == 0
    assert affine[0, 0] == affine[1, 1] == pytest.approx(single.side / 256, rel=1e-5)


def test_frames_without_a_face_do_not_count(astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    seen = driving_square([points])
    assert driving_square([None, points, np.full((478, 3), np.nan)]) == seen
    masked = np.ma.masked_array(np.stack([points, points * 2]), mask=np.zeros((2, 478, 3), bool))
    masked[1] = np.ma.masked
    assert driving_square(masked) == seen
    for nothing in ([], [None, None], [np.full((478, 2), np.nan)]):
        with pytest.raises(ValueError, match="no frame has a face"):
            driving_square(nothing)
    with pytest.raises(ValueError, match="no frame has a face"):
        average_square([])


def test_clips_keep_the_face_in_their_crop(shared_data, landmarker):
    """In a real clip every tenth frame's face lies within the one crop."""
    from talking_portrait.core_models.face.tracking import follow_face
    from talking_portrait.core_models.video_file import read_video_frames

    frames = list(read_video_frames(shared_data / "driving" / "man_talk_384_30fps_audio.mp4"))[::10]
    track = [None if face is None else face.landmarks for face in follow_face(frames, landmarker, 0)]
    to_frame = driving_crop_to_frame(track)
    corners = apply_affine(to_frame, np.array([[0.0, 0.0], [512.0, 512.0]]))
    for points in track:
        assert (points[:468, :2] > corners[0]).all()
        assert (points[:468, :2] < corners[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: np.where(np.arange(478)[:, None] == 7, np.nan, points), r"landmark 7 is \[nan"),
        (lambda points: points * 0 + 30, "span an area"),
        (lambda points: points[:467], r"shape \(467, 3\).*5, 9, 68, 101, 106, 203, 468, 478 points"),
        (lambda points: points[0], r"shape \(3,\)"),
        (lambda points: points[None], r"shape \(1, 478, 3\)"),
    ],
)
def test_landmarks_that_place_no_crop(astronaut_landmarks, change, message):
    points = change(astronaut_landmarks.landmarks)
    with pytest.raises(ValueError, match=message):
        anchored_square(points, 2.3)
    with pytest.raises(ValueError, match=message):
        face_crop_to_frame(points)


def test_crop_without_pixels_is_refused():
    with pytest.raises(ValueError, match="crop_size is 0"):
        FaceSquare((0, 0), 1).frame_to_crop(0)
    with pytest.raises(ValueError, match="crop_size is -3"):
        FaceSquare((0, 0), 1).crop_to_frame(-3)
