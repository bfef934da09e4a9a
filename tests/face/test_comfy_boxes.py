"""Face boxes from ComfyUI's BOUNDING_BOX in each of its shapes."""

import pytest
from talking_portrait.core_models.face.comfy_boxes import box_from_comfy

SMALL = {"x": 1, "y": 2, "width": 3, "height": 4}
LARGE = {"x": 10, "y": 20, "width": 30, "height": 40, "score": 0.5, "label": "face"}


@pytest.mark.parametrize("value", [LARGE, [LARGE], [[LARGE]], ([LARGE],)])
def test_one_box_in_any_shape(value):
    assert box_from_comfy(value) == (10, 20, 30, 40)


def test_boxes_are_counted_by_size_and_by_picture():
    assert box_from_comfy([SMALL, LARGE], 0) == (10, 20, 30, 40)
    assert box_from_comfy([SMALL, LARGE], 1) == (1, 2, 3, 4)
    assert box_from_comfy([[LARGE], [SMALL]], picture_index=1) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("value", "arguments", "message"),
    [
        ([SMALL, LARGE], (), "2 boxes: set face_index"),
        ([SMALL], (1,), "face_index is 1"),
        ([], (), "no box"),
        ([[]], (), "no box"),
        ([[SMALL]], (None, 1), "picture 1"),
        ("box", (), "expected BOUNDING_BOX"),
        ([{"x": 1}], (), "needs x, y, width and height"),
    ],
)
def test_what_is_wrong_is_said(value, arguments, message):
    with pytest.raises(ValueError, match=message):
        box_from_comfy(value, *arguments)
