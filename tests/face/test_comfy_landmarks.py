"""ComfyUI's FACE_LANDMARKS."""

import numpy as np
import pytest
from talking_portrait.core_models.face.comfy_landmarks import faces_from_comfy
from talking_portrait.core_models.face.crop import apply_affine, invert_affine, square_crop_to_frame
from talking_portrait.core_models.face.landmarker import FaceNotFoundError
from talking_portrait.core_models.face.portrait import portrait_from_comfy_landmarks


def comfy_face(landmarks, presence=9.0, scale=1.0):
    """What ComfyUI's node emits: pixels, and the network's own crop of 192 pixels, turned and scaled."""
    landmarks = np.asarray(landmarks, np.float32) * scale
    crop = invert_affine(square_crop_to_frame((225, 124), 160 * scale, 12, 192))
    return {
        "landmarks_xy": landmarks[:, :2],
        "landmarks_3d": apply_affine(crop, landmarks),
        "bbox_xyxy": np.zeros(4),
        "blendshapes": {"_neutral": 0.1, "jawOpen": 0.25},
        "presence": presence,
        "score": 0.9,
    }


def wire(*frames, size=(512, 512)):
    return {"frames": list(frames), "image_size": size, "connection_sets": {}}


def test_portrait_equals_one_from_landmarks(astronaut, astronaut_portrait, astronaut_landmarks):
    """The depth, which ComfyUI leaves in crop units, comes back in pixels."""
    portrait = portrait_from_comfy_landmarks(astronaut, wire([comfy_face(astronaut_landmarks.landmarks)]))
    np.testing.assert_allclose(portrait.landmarks, astronaut_portrait.landmarks, atol=0.02)
    np.testing.assert_allclose(portrait.pose.rotation, astronaut_portrait.pose.rotation, atol=0.05)
    assert portrait.blendshapes[24] == pytest.approx(0.25)
    assert portrait.presence == pytest.approx(1 / (1 + np.exp(-9)))


def test_faces_are_sorted_and_frames_chosen(astronaut_landmarks):
    small, large = (comfy_face(astronaut_landmarks.landmarks, scale=scale) for scale in (0.5, 1.0))
    value = wire([small, large], [small])
    faces = faces_from_comfy(value, 512, 512)
    assert faces[0].area > 3 * faces[1].area
    assert len(faces_from_comfy(value, 512, 512, frame_index=1)) == 1


def test_frame_without_a_face(astronaut):
    with pytest.raises(FaceNotFoundError):
        portrait_from_comfy_landmarks(astronaut, wire([]))


@pytest.mark.parametrize("value", [None, [], {"landmarks": []}, 3])
def test_what_is_not_face_landmarks(value, astronaut):
    with pytest.raises(ValueError, match="FACE_LANDMARKS"):
        portrait_from_comfy_landmarks(astronaut, value)


def test_landmarks_of_another_picture(astronaut, astronaut_landmarks):
    value = wire([comfy_face(astronaut_landmarks.landmarks)], size=(768, 1024))
    with pytest.raises(ValueError, match=r"1024 x 768 px picture, but this one is 512 x 512"):
        portrait_from_comfy_landmarks(astronaut, value)


def test_frame_that_is_not_there(astronaut_landmarks):
    with pytest.raises(ValueError, match=r"frame 3 asked for.*1 frame"):
        faces_from_comfy(wire([comfy_face(astronaut_landmarks.landmarks)]), 512, 512, frame_index=3)


def test_faces_that_lack_something(astronaut_landmarks):
    face = comfy_face(astronaut_landmarks.landmarks)
    with pytest.raises(ValueError, match="lacks landmarks_3d"):
        faces_from_comfy(wire([{"landmarks_xy": face["landmarks_xy"]}]), 512, 512)
    with pytest.raises(ValueError, match="do not match"):
        faces_from_comfy(wire([{**face, "landmarks_3d": face["landmarks_3d"][:100]}]), 512, 512)
    short = {**face, "landmarks_xy": face["landmarks_xy"][:99], "landmarks_3d": face["landmarks_3d"][:99]}
    with pytest.raises(ValueError, match="expected 478"):
        faces_from_comfy(wire([short]), 512, 512)
