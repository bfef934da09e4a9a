"""Face boxes from ComfyUI's own BOUNDING_BOX, as its detection nodes put them on the wire.

The wire holds one box {"x", "y", "width", "height"} in pixels, a list of boxes of one picture, or a list of
such lists, one per picture of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOX_KEYS = ("x", "y", "width", "height")


def box_from_comfy(
    bounding_box: Any, box_index: int | None = None, picture_index: int = 0
) -> tuple[float, float, float, float]:
    """Return one box as (x, y, width, height) in pixels.

    box_index: which box of the picture, 0 the largest; may be left out when there is only one.
    picture_index: which picture of a batch.
    Raises ValueError when the value is not BOUNDING_BOX, holds no box, or the choice is unclear.
    """
    boxes = [_box(value) for value in _boxes_of_picture(bounding_box, picture_index)]
    boxes.sort(key=lambda box: -box[2] * box[3])
    if not boxes:
        raise ValueError("the BOUNDING_BOX holds no box for this picture: is there a face in it?")
    if box_index is None and len(boxes) > 1:
        raise ValueError(f"the BOUNDING_BOX holds {len(boxes)} boxes: set face_index, 0 is the largest")
    if not 0 <= (box_index or 0) < len(boxes):
        raise ValueError(f"face_index is {box_index}, but the BOUNDING_BOX holds {len(boxes)} box(es)")
    return boxes[box_index or 0]


def _boxes_of_picture(value: Any, picture_index: int) -> list[Any]:
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected BOUNDING_BOX, boxes with x, y, width, height, got {type(value).__name__}")
    if not any(isinstance(item, (list, tuple)) for item in value):
        return list(value)
    if not 0 <= picture_index < len(value):
        raise ValueError(f"picture {picture_index} was asked for, but the BOUNDING_BOX is for {len(value)}")
    return list(value[picture_index])


def _box(value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, Mapping) or not set(BOX_KEYS) <= set(value):
        raise ValueError(f"a box needs x, y, width and height, got {value!r}")
    x, y, width, height = (float(value[key]) for key in BOX_KEYS)
    return x, y, width, height
