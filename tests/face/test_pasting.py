"""Pasting crops of a portrait back."""

import cv2
import numpy as np
import pytest
from talking_portrait.core_models.face.crop import crop_face
from talking_portrait.core_models.face.pasting import edge_mask, paste_crops


def test_edge_mask_fades_to_the_border_only():
    mask = edge_mask(100, 0.1)
    assert (mask[11:-11, 11:-11] == 1).all()
    assert mask[0].max() < 0.01
    assert (np.diff(mask[50, :12]) >= 0).all()
    assert (edge_mask(8, 0) == 1).all()


@pytest.mark.parametrize("size", [256, 512, 700])
def test_a_crop_of_any_size_lands_where_it_came_from(astronaut_portrait, size):
    portrait = astronaut_portrait
    crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size)
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    (pasted,) = paste_crops(portrait, [resized], 1)
    assert np.abs(pasted.astype(int) - portrait.frame).mean() < 1.5


def test_outside_the_mask_nothing_changes(astronaut_portrait):
    black = np.zeros((512, 512, 3), np.uint8)
    mask = np.zeros((1, 512, 512), np.float32)
    mask[0, 200:300, 200:300] = 1
    one, two = paste_crops(astronaut_portrait, [black, black], 2, mask)
    np.testing.assert_array_equal(one, two)
    changed = (one != astronaut_portrait.frame).any(axis=2)
    assert 0 < changed.sum() < 0.1 * changed.size


def test_what_does_not_fit_is_refused(astronaut_portrait):
    crop = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="2 masks for 3 crops"):
        list(paste_crops(astronaut_portrait, [crop] * 3, 3, np.ones((2, 64, 64), np.float32)))
    with pytest.raises(ValueError, match="must be square"):
        list(paste_crops(astronaut_portrait, [crop[:32]], 1))
    with pytest.raises(ValueError, match="from 0 to"):
        edge_mask(64, 0.7)
