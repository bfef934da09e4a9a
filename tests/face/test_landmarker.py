"""The networks on real pictures: who is found, who is not, and where."""

import numpy as np
import pytest
from talking_portrait.core_models.face.landmarker import DetectedFace, FaceLandmarker, FaceRegion
from talking_portrait.core_models.face.picture import load_picture
from talking_portrait.core_models.face.pose import fit_head_pose
from talking_portrait.core_models.types import BLENDSHAPE_INDEX

PORTRAITS = {
    "child_painting.jpg": (353, 267),
    "girl_painting_three_quarter.jpg": (501, 583),
    "man_photo_glasses.jpg": (374, 372),
    "older_woman_photo_uniform.jpg": (263, 233),
    "statue_clay.jpg": (361, 348),
    "woman_painting_dark_skin.png": (249, 341),
    "woman_photo_astronaut.png": (225, 124),
}
"""Middle of the face in pixels, as seen."""


@pytest.mark.parametrize("name", PORTRAITS)
def test_portraits_have_one_face_where_it_is(name, shared_data, landmarker):
    faces = landmarker.detect(load_picture(shared_data / "portraits" / name))
    assert len(faces) == 1
    assert np.hypot(*np.subtract(faces[0].centre, PORTRAITS[name])) < 0.1 * faces[0].box[2]
    assert faces[0].presence > 0.9


def test_shipped_landmarks_are_what_the_networks_find(astronaut, astronaut_landmarks, landmarker):
    face = landmarker.detect(astronaut)[0]
    np.testing.assert_allclose(face.landmarks, astronaut_landmarks.landmarks, atol=0.3)
    np.testing.assert_allclose(face.blendshapes, astronaut_landmarks.blendshapes, atol=0.05)


def test_blendshapes_carry_our_names(astronaut_landmarks, landmarker, shared_data):
    """The smiling photo smiles; a frowning one does not; nobody sticks the tongue out."""
    frown = landmarker.detect(load_picture(shared_data / "portraits" / "man_photo_glasses.jpg"))[0]
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        assert astronaut_landmarks.blendshapes[BLENDSHAPE_INDEX[name]] > 0.7
        assert frown.blendshapes[BLENDSHAPE_INDEX[name]] < 0.1
    assert frown.blendshapes[BLENDSHAPE_INDEX["tongueOut"]] == 0


def test_mirrored_picture_mirrors_face_and_pose(astronaut, landmarker):
    from talking_portrait.core_models.face.topology import mirror_indices

    face = landmarker.detect(astronaut)[0]
    mirrored = landmarker.detect(np.ascontiguousarray(astronaut[:, ::-1]))[0]
    expected = face.landmarks[mirror_indices()] * [-1, 1, 1] + [511, 0, 0]
    error = np.linalg.norm((mirrored.landmarks - expected)[:, :2], axis=1).mean()
    assert error < 0.02 * face.box[2]
    flipped = fit_head_pose(mirrored.landmarks).rotation * [1, -1, -1]
    np.testing.assert_allclose(flipped, fit_head_pose(face.landmarks).rotation, atol=2.5)


def test_turned_picture_turns_the_landmarks(astronaut, landmarker):
    import cv2

    turn = cv2.getRotationMatrix2D((225, 124), 30, 1)
    face = landmarker.detect(astronaut)[0]
    turned = landmarker.detect(cv2.warpAffine(astronaut, turn, (512, 512)))[0]
    expected = face.landmarks[:, :2] @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(turned.landmarks[:, :2] - expected, axis=1).mean() < 0.02 * face.box[2]
    roll = fit_head_pose(turned.landmarks).rotation[2] - fit_head_pose(face.landmarks).rotation[2]
    assert roll == pytest.approx(30, abs=2)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "moon", "brick", "page"])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_nothing_is_invented(name, quarter_turns, landmarker):
    """A cat, a cup, the moon, bricks and print hold no face, tiles or not, whichever way up."""
    picture = getattr(pytest.importorskip("skimage.data"), name)()
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    assert landmarker.detect(np.ascontiguousarray(np.rot90(picture, quarter_turns))) == []


@pytest.mark.parametrize("share", [0.085, 0.045])
def test_small_faces_are_found_in_tiles(share, astronaut, landmarker):
    """A face of 8.5 % or 4.5 % of the width, which the detector misses at full scale, is found in a tile."""
    import cv2

    face = landmarker.detect(astronaut)[0]
    scale = share * 1600 / face.box[2]
    small = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    scene = np.full((1200, 1600, 3), (90, 120, 90), np.uint8)
    top, left = 600, 300
    part = small[: 1200 - top, : 1600 - left]
    scene[top : top + part.shape[0], left : left + part.shape[1]] = part
    assert landmarker.detect(scene, search_tiles=False) == []
    found = landmarker.detect(scene)
    assert len(found) == 1
    expected = np.array(face.centre) * scale + (left, top)
    assert np.hypot(*(found[0].centre - expected)) < 0.05 * share * 1600


def test_two_faces_largest_first(shared_data, landmarker):
    faces = landmarker.detect(load_picture(shared_data / "portraits" / "two_faces_car.jpg"))
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].centre[0] < 640 < faces[1].centre[0]
    assert (
        len(landmarker.detect(load_picture(shared_data / "portraits" / "two_faces_car.jpg"), max_faces=1))
        == 1
    )


def test_large_picture_is_measured_at_full_resolution(astronaut, landmarker):
    """8000 x 6000 pixels: found on a reduced copy, landmarks in the large picture's own pixels."""
    import cv2

    large = cv2.resize(astronaut[:384], (8000, 6000), interpolation=cv2.INTER_CUBIC)
    face, small = landmarker.detect(large)[0], landmarker.detect(astronaut)[0]
    reduced = (face.landmarks[:, :2] + 0.5) / 15.625 - 0.5
    assert np.linalg.norm(reduced - small.landmarks[:, :2], axis=1).mean() < 0.02 * small.box[2]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (15, 15)])
def test_tiny_pictures_hold_nothing(size, landmarker):
    assert landmarker.detect(np.full((*size, 3), 200, np.uint8)) == []


def test_tracking_follows_a_shift_and_lets_go_of_nothing(astronaut, landmarker):
    face = landmarker.detect(astronaut)[0]
    moved = np.roll(astronaut, (6, 9), axis=(0, 1))
    tracked = landmarker.track(moved, face)
    np.testing.assert_allclose(tracked.landmarks[:, :2], face.landmarks[:, :2] + [9, 6], atol=1.5)
    assert landmarker.track(np.full_like(astronaut, 90), face) is None


def test_box_around_the_face_or_the_whole_head(astronaut, landmarker):
    face = landmarker.detect(astronaut)[0]
    for box in (face.box, (150, 20, 160, 180), (0, 0, 512, 512)):
        found = landmarker.detect_in_box(astronaut, box)
        assert np.linalg.norm((found.landmarks - face.landmarks)[:, :2], axis=1).mean() < 0.01 * face.box[2]
    assert landmarker.detect_in_box(astronaut, (300, 300, 100, 100)) is None


def test_region_of_landmarks_follows_the_eyes(astronaut_landmarks):
    region = FaceRegion.from_landmarks(astronaut_landmarks.landmarks)
    assert region.side == pytest.approx(1.5 * 109, rel=0.03)
    eyes = astronaut_landmarks.landmarks[263] - astronaut_landmarks.landmarks[33]
    assert np.tan(np.radians(region.angle)) == pytest.approx(eyes[1] / eyes[0], rel=1e-4)


def test_moved_face(astronaut_landmarks):
    face = DetectedFace(astronaut_landmarks.landmarks, np.zeros(52), 1.0, (1.0, 2.0, 10.0, 20.0))
    moved = face.moved(5, -1)
    assert moved.box == (6.0, 1.0, 10.0, 20.0)
    assert moved.centre == (11.0, 11.0)
    np.testing.assert_allclose(moved.landmarks - face.landmarks, [[5, -1, 0]] * 478, atol=1e-4)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        "face.png",
    ],
)
def test_frames_of_another_kind_are_refused(frame, landmarker):
    with pytest.raises(ValueError, match="uint8 RGB"):
        landmarker.detect(frame)


def test_frame_without_pixels_is_refused(landmarker):
    with pytest.raises(ValueError, match="no pixels"):
        landmarker.detect(np.zeros((0, 40, 3), np.uint8))


def test_what_is_not_the_bundle_says_so(tmp_path):
    import zipfile

    page = tmp_path / "face_landmarker.task"
    page.write_text("<html>404</html>")
    with pytest.raises(ValueError, match="not the MediaPipe face landmark bundle"):
        FaceLandmarker(page)
    with zipfile.ZipFile(page, "w") as archive:
        archive.writestr("other.tflite", b"")
    with pytest.raises(ValueError, match=r"face_detector\.tflite"):
        FaceLandmarker(page)
    with pytest.raises(FileNotFoundError):
        FaceLandmarker(tmp_path / "none.task")
