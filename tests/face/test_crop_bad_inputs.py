"""Pictures and faces of unusual size and kind, from the crop to the paste-back."""

import subprocess
import sys

import numpy as np
import pytest
from talking_portrait.core_models.face.anchored_crop import anchored_square
from talking_portrait.core_models.face.crop import crop_face, face_crop_to_frame
from talking_portrait.core_models.face.pasting import paste_back, paste_crops, plan_paste_back
from talking_portrait.core_models.face.picture import picture_from_array
from talking_portrait.core_models.face.portrait import portrait_from_landmarks

MOST_PICTURES_OF_MEMORY = 4.0
"""The picture itself, what is made of it (the same size), and at most twice that beside them."""

MEMORY_SCRIPT = """
import resource
import numpy as np
from talking_portrait.core_models.face.crop import crop_face, square_crop_to_frame
from talking_portrait.core_models.face.pasting import plan_paste_back

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small = square_crop_to_frame((100, 100), 150, 5, 512)
plan = plan_paste_back((200, 200), 512, small)
plan.paste(np.zeros((200, 200, 3), np.uint8), crop_face(np.zeros((200, 200, 3), np.uint8), small, 512))
before = peak()
frame = np.full((6000, 8000, 3), 100, np.uint8)
affine = square_crop_to_frame((4000, 3000), 7000, 5, 512)
crop = crop_face(frame, affine, 512)
pasted = plan_paste_back((8000, 6000), 512, affine).paste(frame, crop)
assert abs(int(pasted[3000, 4000, 0]) - 100) <= 1
print((peak() - before) / frame.nbytes)
"""


def test_large_picture_needs_little_memory():
    """8000 x 6000 pixels that the face fills: crop, plan and paste together."""
    pytest.importorskip("resource")
    ran = subprocess.run([sys.executable, "-c", MEMORY_SCRIPT], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < MOST_PICTURES_OF_MEMORY


def test_single_pixel():
    frame = np.full((1, 1, 3), 77, np.uint8)
    landmarks = np.random.default_rng(0).uniform(-2, 2, (478, 3))
    affine = face_crop_to_frame(landmarks)
    assert (crop_face(frame, affine, 64) == 77).all()
    square = anchored_square(landmarks, 2.3)
    assert crop_face(frame, square.crop_to_frame(64), 64, averaged=False).shape == (64, 64, 3)
    pasted = paste_back(frame, np.full((512, 512, 3), 9, np.uint8), affine)
    assert pasted.shape == (1, 1, 3)
    assert pasted[0, 0, 0] == 9


@pytest.mark.parametrize("kind", ["grey", "grey with a channel", "RGBA", "float"])
def test_other_kinds_of_picture_become_rgb_first(kind, astronaut, astronaut_landmarks):
    grey = astronaut.mean(axis=2).astype(np.uint8)
    values = {
        "grey": grey,
        "grey with a channel": grey[..., None],
        "RGBA": np.concatenate([astronaut, np.full_like(astronaut[..., :1], 255)], axis=2),
        "float": astronaut.astype(np.float32) / 255,
    }[kind]
    portrait = portrait_from_landmarks(picture_from_array(values), astronaut_landmarks.landmarks)
    crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size)
    (pasted,) = paste_crops(portrait, [crop], 1)
    assert pasted.shape == (512, 512, 3)
    assert np.abs(pasted.astype(int) - portrait.frame).mean() < 0.5
    if kind in ("RGBA", "float"):
        np.testing.assert_array_equal(portrait.frame, astronaut)


def test_pictures_that_are_not_rgb_are_refused(astronaut):
    plan = plan_paste_back((512, 512), 64, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    crop = np.zeros((64, 64, 3), np.uint8)
    for frame in (astronaut[..., 0], np.zeros((512, 512, 4), np.uint8), astronaut.astype(np.float32)):
        with pytest.raises(ValueError, match="planned for"):
            plan.paste(frame, crop)


@pytest.mark.parametrize("width", [8, 3, 0.5])
def test_tiny_face(width, astronaut, astronaut_landmarks):
    """A face of a few pixels is enlarged to a whole crop, and pasting it back touches only its surroundings."""
    points = astronaut_landmarks.landmarks * width / np.ptp(astronaut_landmarks.landmarks[:468, 0])
    portrait = portrait_from_landmarks(astronaut, points + np.array([100, 100, 0]))
    crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size)
    assert crop.shape == (512, 512, 3)
    (pasted,) = paste_crops(portrait, [255 - crop], 1)
    changed = np.argwhere((pasted != portrait.frame).any(axis=2))
    assert 0 < np.ptp(changed, axis=0).max() <= 4 * width + 4


@pytest.mark.parametrize("shift", [(-200, 0), (0, -60), (270, 0), (0, 420)])
def test_face_cut_by_the_border(shift, astronaut, astronaut_landmarks):
    """The part outside is filled, and the part inside goes back where it was."""
    rolled = np.zeros_like(astronaut)
    x, y = shift
    rolled[max(0, y) : 512 + min(0, y), max(0, x) : 512 + min(0, x)] = astronaut[
        max(0, -y) : 512 - max(0, y), max(0, -x) : 512 - max(0, x)
    ]
    points = astronaut_landmarks.landmarks + np.array([x, y, 0])
    affine = face_crop_to_frame(points)
    crop = crop_face(rolled, affine, 512)
    plan = plan_paste_back((512, 512), 512, affine)
    pasted = plan.paste(rolled, crop)
    assert np.abs(pasted.astype(int) - rolled).mean() < 1
    assert plan.box[0] == 0 or plan.box[1] == 0 or 512 in plan.box[2:]
    gone = plan_paste_back((512, 512), 512, affine + np.array([[0, 0, 2000], [0, 0, 0]]))
    np.testing.assert_array_equal(gone.paste(rolled, crop), rolled)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_landmarks_that_are_not_numbers(bad, astronaut_landmarks):
    points = np.array(astronaut_landmarks.landmarks)
    points[152, 1] = bad
    with pytest.raises(ValueError, match="landmark 152 is"):
        face_crop_to_frame(points)


def test_landmarks_on_one_point():
    with pytest.raises(ValueError, match="landmarks must span an area"):
        face_crop_to_frame(np.full((478, 3), 40.0))
