"""The border between IMAGE and MASK tensors and frames."""

import numpy as np
import pytest
import torch
from talking_portrait.nodes.images import (
    frame_from_image,
    frames_from_image,
    image_from_frames,
    mask_from_arrays,
    masks_from_mask,
)


@pytest.fixture
def every_grey() -> np.ndarray:
    """A frame that holds all 256 levels."""
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def test_frames_come_back_bit_equal(every_grey):
    image = image_from_frames([every_grey, every_grey[::-1]])
    assert image.shape == (2, 16, 16, 3)
    assert image.dtype == torch.float32
    first, second = frames_from_image(image)
    np.testing.assert_array_equal(first, every_grey)
    np.testing.assert_array_equal(second, every_grey[::-1])


def test_core_nodes_that_cut_off_instead_of_rounding_lose_nothing(every_grey):
    image = image_from_frames([every_grey])
    np.testing.assert_array_equal(torch.clamp(image[0] * 255, 0, 255).to(torch.uint8).numpy(), every_grey)


def test_frames_are_counted(every_grey):
    assert image_from_frames(iter([every_grey] * 3), 3).shape[0] == 3
    with pytest.raises(ValueError, match="3 frames were announced, but 2 came"):
        image_from_frames(iter([every_grey] * 2), 3)
    with pytest.raises(ValueError, match="1 frames were announced, but 2 came"):
        image_from_frames(iter([every_grey] * 2), 1)
    with pytest.raises(ValueError, match="no frames"):
        image_from_frames([])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "expected an IMAGE.*got NoneType"),
        (torch.zeros(8, 8, 3), "got shape"),
        (np.zeros((1, 8, 8, 3)), "got shape"),
        (torch.zeros(0, 8, 8, 3), "holds no pictures"),
        (torch.zeros(1, 8, 8, 2), "1, 3 or 4"),
        (torch.full((1, 8, 8, 3), float("nan")), "NaN"),
        (torch.full((1, 8, 8, 3), 255.0), "range over 0..1"),
    ],
)
def test_what_is_not_an_image_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        frame_from_image(value)


def test_transparent_and_half_precision_pictures_are_taken():
    assert frame_from_image(torch.ones(1, 4, 4, 4, dtype=torch.float16)).tolist()[0][0] == [255, 255, 255]
    assert frame_from_image(torch.zeros(1, 4, 4, 4)).tolist()[0][0] == [128, 128, 128]  # all transparent


def test_masks_with_and_without_a_batch():
    assert mask_from_arrays(np.ones((4, 5), np.float32)).shape == (1, 4, 5)
    assert masks_from_mask(torch.ones(4, 5)).shape == (1, 4, 5)
    assert masks_from_mask(torch.ones(2, 4, 5)).shape == (2, 4, 5)
    for value in (None, torch.ones(1, 2, 3, 4), torch.ones(0, 4, 5)):
        with pytest.raises(ValueError, match="expected a MASK"):
            masks_from_mask(value)
