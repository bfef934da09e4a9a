"""What a track and the photo's own expression add up to."""

import numpy as np
import pytest
from talking_portrait.core_models.rendering.composition import compose_expression, lip_seal, soft_limit
from talking_portrait.core_models.types import BLENDSHAPE_INDEX


def coefficients(**values: float) -> np.ndarray:
    row = np.zeros(52, np.float32)
    for name, value in values.items():
        names = [name] if name in BLENDSHAPE_INDEX else [name + "Left", name + "Right"]
        row[[BLENDSHAPE_INDEX[each] for each in names]] = value
    return row


def change(target, name: str) -> float:
    return float(target.change[BLENDSHAPE_INDEX[name]])


PHOTO = coefficients(jawOpen=0.04, mouthSmile=0.6, eyeBlink=0.1, browInnerUp=0.2, mouthLowerDown=0.1)


def test_rest_leaves_the_photo_alone():
    assert compose_expression(np.zeros(52), PHOTO, opening=0.02).is_still
    assert compose_expression(np.zeros(52), PHOTO, opening=0.2).is_still


def test_a_mouth_that_hangs_open_closes_at_rest():
    photo = coefficients(jawOpen=0.6)
    assert change(compose_expression(np.zeros(52), photo, opening=0.6), "jawOpen") == pytest.approx(-0.6)


def test_the_jaw_is_absolute():
    target = compose_expression(coefficients(jawOpen=0.3), coefficients(jawOpen=0.2), opening=0.2)
    assert change(target, "jawOpen") == pytest.approx(0.85 * np.tanh(0.3 / 0.85) - 0.2, abs=1e-4)


def test_smiles_are_added_to_the_photos_own_within_reason():
    assert change(compose_expression(coefficients(mouthSmile=0.4), PHOTO), "mouthSmileLeft") == pytest.approx(
        0.4
    )
    most = change(compose_expression(coefficients(mouthSmile=1.0), PHOTO), "mouthSmileLeft")
    assert most == pytest.approx(1.25 - 0.6)


def test_the_jaw_never_passes_its_limit():
    assert change(compose_expression(coefficients(jawOpen=1), np.zeros(52)), "jawOpen") < 0.85
    assert soft_limit(0.1, 0.85) == pytest.approx(0.1, abs=1e-3)


def test_blinks_start_from_the_photos_own_lids():
    target = compose_expression(coefficients(eyeBlinkLeft=1.0), PHOTO)
    np.testing.assert_allclose(target.closure, [1, 0])


def test_gaze_keeps_the_eyes_parallel_and_is_capped():
    right = compose_expression(coefficients(eyeLookOutLeft=1, eyeLookInRight=1), PHOTO).gaze
    assert 0 < right[0] <= 0.6
    assert right[1] == 0
    crossed = compose_expression(coefficients(eyeLookIn=1), PHOTO).gaze
    np.testing.assert_allclose(crossed, 0, atol=1e-6)
    assert compose_expression(coefficients(eyeLookDown=0.5), PHOTO).gaze[1] < 0


def test_eye_coefficients_never_reach_the_linear_basis():
    asked = coefficients(eyeBlink=1, eyeWide=1, eyeSquint=1, eyeLookUp=1)
    assert not compose_expression(asked, PHOTO).change.any()


@pytest.mark.parametrize(
    ("asked", "sealed"),
    [
        ({}, False),
        ({"jawOpen": 0.05, "mouthClose": 0.05, "mouthPress": 0.35, "mouthRollLower": 0.1}, True),
        ({"jawOpen": 0.4, "mouthClose": 0.4}, True),
        ({"jawOpen": 0.4}, False),
        ({"jawOpen": 0.4, "mouthClose": 0.05}, False),
        ({"mouthPucker": 0.7, "jawOpen": 0.1}, False),
    ],
)
def test_lips_seal_for_p_b_m_only(asked, sealed):
    assert (lip_seal(coefficients(**asked)) > 0.9) is sealed
    assert sealed or lip_seal(coefficients(**asked)) < 0.1


def test_strength_scales_the_face_but_not_the_lids():
    asked = coefficients(mouthSmile=0.2, eyeBlink=0.8)
    doubled = compose_expression(asked, np.zeros(52), strength=2.0)
    assert change(doubled, "mouthSmileLeft") == pytest.approx(0.4)
    np.testing.assert_allclose(doubled.closure, 0.8)


def test_values_outside_the_range_are_clipped():
    assert change(compose_expression(coefficients(mouthSmile=9.0), np.zeros(52)), "mouthSmileLeft") == 1.0


def test_a_frown_undoes_the_photos_own_smile():
    smiling = coefficients(mouthSmile=0.9)
    target = compose_expression(coefficients(mouthFrown=0.3), smiling, opening=0.2)
    assert change(target, "mouthSmileLeft") == pytest.approx(-0.54, abs=0.01)
    assert target.lip_seal > 0.7
    relaxed = compose_expression(coefficients(mouthFrown=0.6), np.zeros(52))
    assert change(relaxed, "mouthSmileLeft") == 0
    assert relaxed.lip_seal == 0


@pytest.mark.parametrize("shape", ["browDown", "noseSneer"])
def test_anger_and_disgust_undo_the_photos_own_smile_too(shape):
    smiling = coefficients(mouthSmile=0.9)
    strong, weak = (
        compose_expression(coefficients(**{shape: value}), smiling, opening=0.2) for value in (0.8, 0.1)
    )
    assert change(strong, "mouthSmileLeft") < -0.7
    assert -0.15 < change(weak, "mouthSmileLeft") < 0
    assert strong.lip_seal > 0.9
    assert weak.lip_seal == 0


def test_lowered_brows_leave_a_smile_that_is_asked_for():
    both = coefficients(browDown=0.8, mouthSmile=0.6)
    assert change(compose_expression(both, coefficients(mouthSmile=0.5)), "mouthSmileLeft") > 0.5
