"""People's joints out of POSE_KEYPOINT, as ComfyUI's pose nodes (DWPose, OpenPose) put them on the wire.

The wire holds a list with a dictionary for each frame: "people", of whom each has "pose_keypoints_2d", a row of x, y
and confidence of 18 or 25 joints in OpenPose's order, and "canvas_width" and "canvas_height". Places are pixels of that
canvas, as of DWPose's node, or shares, as of OpenPose's; a joint that was not found is 0, 0, 0. Faces and hands are not
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PADDED_TO = 64
"""OpenPose's node looks at pictures that are padded at right and below to multiples of so many pixels, and gives shares
of these, beside the canvas without padding."""
JOINT_COUNTS = (18, 25)
"""Of a body in OpenPose's two orders, of which the first eight joints are the same."""
SHARE_REACH = 2.0
"""Where no place is beyond this and the canvas is, places are shares; those of hidden joints may lie outside."""
_CONNECT = "connect the POSE_KEYPOINT output of a DWPose or OpenPose node"


def people_of_frames(pose_keypoints: Any, frame_count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Return for each frame (P, J, 3) float64: x and y in pixels of the frames, and confidence, of P people.

    frame_count, size: of the video, which is (width, height) in pixels. J is 18 or 25, and 18 where nobody is. Joints
    that were not found have x and y of NaN and confidence 0. Places grow by one factor to the frames' size, so that the
    canvas fills them; of a canvas that was padded at right and below, as older nodes do, that is the picture's own.
    Without a canvas, as in OpenPose's own files, places are taken to be of the frames.
    Raises ValueError for a value that is not POSE_KEYPOINT, another number of frames than the video's, a canvas without
    pixels, and joints that are not numbers in threes, not 18 or 25, or not as many everywhere.
    """
    frames = _checked_frames(pose_keypoints, frame_count)
    people = [_people(frame, index) for index, frame in enumerate(frames)]
    joints = _joint_count(people)
    sides = np.array([_canvas(frame, index, size) for index, frame in enumerate(frames)]).reshape(-1, 2)
    in_shares = _are_shares(people, sides)
    return [
        _in_pixels(found, canvas, size, in_shares).reshape(-1, joints, 3)
        for found, canvas in zip(people, sides, strict=True)
    ]


def _checked_frames(pose_keypoints: Any, frame_count: int) -> Sequence[Any]:
    if not isinstance(pose_keypoints, list | tuple):
        raise ValueError(
            f"expected POSE_KEYPOINT (a list with a dictionary for each frame), got {type(pose_keypoints).__name__}: "
            f"{_CONNECT}"
        )
    if len(pose_keypoints) != frame_count:
        raise ValueError(
            f"the POSE_KEYPOINT holds {len(pose_keypoints)} frame(s) and the video {frame_count}: give both nodes the "
            "same frames"
        )
    return pose_keypoints


def _people(frame: Any, index: int) -> list[np.ndarray]:
    """Return (J, 3) float64 of each person in a frame of whom the body was found."""
    if not isinstance(frame, Mapping) or not isinstance(frame.get("people"), list | tuple):
        held = ", ".join(map(str, frame)) if isinstance(frame, Mapping) else type(frame).__name__
        raise ValueError(
            f"frame {index} of the POSE_KEYPOINT has no list of 'people', only: {held or 'nothing'}; animals are not "
            f"read: {_CONNECT}"
        )
    found = []
    for number, person in enumerate(frame["people"]):
        where = f"person {number} in frame {index} of the POSE_KEYPOINT"
        if not isinstance(person, Mapping):
            raise ValueError(f"{where} is a {type(person).__name__}, expected a dictionary: {_CONNECT}")
        row = person.get("pose_keypoints_2d")
        if row is None or (isinstance(row, list | tuple) and not row):
            continue  # only a face or hands were found
        found.append(_joints(row, where))
    return found


def _joints(row: Any, where: str) -> np.ndarray:
    """Return (J, 3) float64 of a flat row; NaN and confidence 0 where a joint was not found."""
    try:
        numbers = np.array(row, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has joints that are not numbers ({error}): {_CONNECT}") from error
    if numbers.ndim != 1 or numbers.size % 3:
        raise ValueError(
            f"{where} has joints of shape {numbers.shape}, expected one row of numbers in threes, x, y and confidence: "
            f"{_CONNECT}"
        )
    if numbers.size // 3 not in JOINT_COUNTS:
        raise ValueError(
            f"{where} has {numbers.size // 3} joints, expected {' or '.join(map(str, JOINT_COUNTS))}: {_CONNECT}"
        )
    joints = numbers.reshape(-1, 3)
    found = np.isfinite(joints).all(axis=1) & (joints[:, 2] > 0) & (joints[:, :2] != 0).any(axis=1)
    return np.where(found[:, None], joints, (np.nan, np.nan, 0.0))


def _joint_count(people: Sequence[Sequence[np.ndarray]]) -> int:
    first: tuple[int, int] | None = None
    for index, persons in enumerate(people):
        for joints in persons:
            first = first or (index, len(joints))
            if len(joints) != first[1]:
                raise ValueError(
                    f"the POSE_KEYPOINT has {first[1]} joints of a person in frame {first[0]} and {len(joints)} in "
                    f"frame {index}: give joints that one node found"
                )
    return JOINT_COUNTS[0] if first is None else first[1]


def _canvas(frame: Mapping[str, Any], index: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height."""
    given = (frame.get("canvas_width"), frame.get("canvas_height"))
    if given == (None, None):
        return size
    try:
        width, height = map(float, given)
    except (TypeError, ValueError):
        width, height = np.nan, np.nan
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise ValueError(
            f"frame {index} of the POSE_KEYPOINT has a canvas of {given[0]} x {given[1]}, expected width and height in "
            f"pixels: {_CONNECT}"
        )
    return width, height


def _are_shares(people: Sequence[Sequence[np.ndarray]], sides: np.ndarray) -> bool:
    places = [joints[:, :2] for persons in people for joints in persons]
    reach = np.nan_to_num(np.abs(places)).max(initial=0.0)
    return 0 < reach <= SHARE_REACH < sides.min()


def _in_pixels(
    people: Sequence[np.ndarray], canvas: np.ndarray, size: tuple[int, int], in_shares: bool
) -> np.ndarray:
    factor = np.max(np.array(size) / canvas)
    padded = np.ceil(canvas / PADDED_TO) * PADDED_TO
    scale = padded * factor if in_shares else np.full(2, factor)
    return np.array(people).reshape(-1, 3) * (*scale, 1.0)
