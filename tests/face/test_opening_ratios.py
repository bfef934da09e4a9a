"""Eye and lip ratios: the release's numbers, and what the face mesh gives on real faces."""

import json

import numpy as np
import pytest
from talking_portrait.core_models.face.opening_ratios import (
    CLOSED_LIPS_RATIO,
    NARROWED_EYES_RATIO,
    opening_ratios,
    opening_ratios_203,
)
from talking_portrait.core_models.types import BLENDSHAPE_INDEX

RELATIVE_TOLERANCE = 1e-4


def test_ratios_of_203_points_match_the_release(golden_folder, liveportrait_tools):
    path = golden_folder / "liveportrait_kdtalker" / "lp_geometry"
    case = json.loads(path.with_suffix(".json").read_text())
    arrays = np.load(path.with_suffix(".npz"))
    (spec,) = (spec for spec in case["inputs"] if spec["arg"] == "lmk")
    ratios = opening_ratios_203(liveportrait_tools.make_input(spec).numpy())
    for name, columns in (("eye_close_ratio", slice(0, 2)), ("lip_close_ratio", slice(2, 3))):
        found, wanted = ratios[:, columns], arrays[name].reshape(case["outputs"][name]["shape"])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=RELATIVE_TOLERANCE * wanted.std())


def test_left_is_the_viewers_left(astronaut_landmarks):
    points = np.array(astronaut_landmarks.landmarks[None])
    before = opening_ratios(points)[0]
    points[0, 159] = points[0, 145]  # closes the eye at the picture's left
    assert points[0, 159, 0] < points[0, 386, 0]
    after = opening_ratios(points)[0]
    assert after[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(after[1:], before[1:])


def test_size_roll_and_depth_do_not_count(astronaut_landmarks):
    points = astronaut_landmarks.landmarks.astype(np.float64)
    turn = np.radians(35)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = points[:, :2] @ rotation.T * 3 + (50, -20)
    np.testing.assert_allclose(opening_ratios(points[None]), opening_ratios(moved[None]), atol=1e-5)
    np.testing.assert_array_equal(opening_ratios(points), opening_ratios(points[None, :468]))


def test_open_eyes_and_closed_lips_of_portraits(shared_data, landmarker):
    """Photographs of people who look at the camera with closed lips."""
    from talking_portrait.core_models.face.picture import load_picture

    for name in ("man_photo_glasses.jpg", "older_woman_photo_uniform.jpg"):
        face = landmarker.detect(load_picture(shared_data / "portraits" / name))[0]
        left, right, lips = opening_ratios(face.landmarks)[0]
        assert 0.28 < left < 0.5
        assert 0.28 < right < 0.5
        assert lips < CLOSED_LIPS_RATIO


def test_blinks_and_open_mouths_of_a_clip(shared_data, landmarker):
    """Ratios against the blendshapes that the bundle reads on the same frames by another network."""
    from talking_portrait.core_models.face.tracking import follow_face
    from talking_portrait.core_models.video_file import read_video_frames

    frames = read_video_frames(shared_data / "driving" / "man_glasses_512x480_30fps.mp4")
    faces = [face for face in follow_face(frames, landmarker, 0) if face is not None]
    ratios = opening_ratios(np.stack([face.landmarks for face in faces]))
    shapes = np.stack([face.blendshapes for face in faces])
    blink = shapes[:, [BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]].mean(axis=1)
    eyes = ratios[:, :2].mean(axis=1)
    assert np.corrcoef(blink, eyes)[0, 1] < -0.8
    assert eyes.min() < 0.04  # a whole blink
    assert np.median(eyes) > 1.4 * NARROWED_EYES_RATIO
    assert (ratios[:, 2] < CLOSED_LIPS_RATIO).mean() > 0.5
    assert ratios[:, 2].max() > 0.2


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((2, 203, 2)), r"shape \(2, 203, 2\); expected \(frames, 478 or 468, 2 or 3\)"),
        (np.zeros((478, 4)), r"shape \(478, 4\)"),
        (np.zeros(478), r"shape \(478,\)"),
        (np.stack([np.zeros((478, 3)), np.full((478, 3), np.nan)]), "frame 1 hold NaN"),
    ],
)
def test_landmarks_of_another_kind(landmarks, message):
    with pytest.raises(ValueError, match=message):
        opening_ratios(landmarks)


def test_all_points_together_give_zero():
    assert not opening_ratios(np.full((1, 478, 3), 5.0)).any()
    with pytest.raises(ValueError, match="203"):
        opening_ratios_203(np.zeros((1, 478, 2)))
