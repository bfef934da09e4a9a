"""How canonical keypoints are placed in a picture: Takin-ADA's transform beside LivePortrait's, never mixed.

Axes and units are those of `keypoint_geometry`: x to the picture's right, y down, z away from the camera, in half sides
of the crop from its middle; R turns row vectors. Here are tensors, with gradients; `keypoint_geometry` has arrays.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from .keypoint_geometry import DEGREES_OF_FIRST_BIN, DEGREES_PER_BIN, POSE_BIN_COUNT


class KeypointTransformError(ValueError):
    """Keypoints of one transform met what places them by the other."""


class KeypointTransform(Enum):
    """Which transform places keypoints.

    WITHOUT_SCALE: x = x_c R + deformation + t, Takin-ADA's. LIVEPORTRAIT: x = s (x_c R + deformation) + (t_x, t_y, 0).
    """

    WITHOUT_SCALE = "without_scale"
    LIVEPORTRAIT = "liveportrait"

    @classmethod
    def named(cls, name: str) -> KeypointTransform:
        """Return the transform of a name. Raises ValueError for another name."""
        if name not in {transform.value for transform in cls}:
            known = ", ".join(repr(transform.value) for transform in cls)
            raise ValueError(f"keypoint transform is {name!r}, expected one of {known}")
        return cls(name)


def require_transform(found: KeypointTransform, expected: KeypointTransform, what: str) -> None:
    """Raise KeypointTransformError unless the transform of `what` (a motion, a weight file) is the expected one."""
    if found is not expected:
        raise KeypointTransformError(
            f"{what} places keypoints by the transform {found.value!r}, but {expected.value!r} is needed here: "
            "extract the motion with the networks that render it, or load the weights it was made with"
        )


def placed_by(
    transform: KeypointTransform,
    canonical: Tensor,
    rotation: Tensor,
    deformation: Tensor,
    translation: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Return the keypoints (B, K, 3) that a transform places.

    canonical, deformation: (B, K, 3). rotation: (B, 3, 3) for row vectors. translation: (B, 3). scale: (B,), of
    LivePortrait's transform alone.
    Raises KeypointTransformError when a scale is given to the transform without one or missing for the other, and
    ValueError for other shapes.
    """
    if (scale is None) is not (transform is KeypointTransform.WITHOUT_SCALE):
        given = "no scale is" if scale is None else "a scale is"
        raise KeypointTransformError(
            f"{given} given, but keypoints are placed by {transform.value!r}: the motion is of the other transform"
        )
    if scale is None:
        return keypoints_without_scale(canonical, rotation, deformation, translation)
    require_shape("scale", scale, len(canonical))
    unmoved = keypoints_without_scale(canonical, rotation, deformation, torch.zeros_like(translation))
    in_the_picture = translation * translation.new_tensor([1.0, 1.0, 0.0])
    return scale[:, None, None] * unmoved + in_the_picture[:, None]


def keypoints_without_scale(
    canonical: Tensor, rotation: Tensor, deformation: Tensor, translation: Tensor
) -> Tensor:
    """Return x = x_c R + deformation + t, (B, K, 3): Takin-ADA's transform, which has no scale and uses all of t.

    canonical: (B, K, 3) x_c, the *source's* for source and driving keypoints alike. rotation: (B, 3, 3), R that turns
    row vectors (face-vid2vid writes its transpose). deformation: (B, K, 3). translation: (B, 3).
    LivePortrait's scale (x_c R + deformation) + (t_x, t_y, 0) is `placed_keypoints` of `keypoint_geometry`.

    Raises ValueError for other shapes.
    """
    require_shape("canonical", canonical, "B", "K", 3)
    batch = len(canonical)
    require_shape("rotation", rotation, batch, 3, 3)
    require_shape("deformation", deformation, *canonical.shape)
    require_shape("translation", translation, batch, 3)
    return canonical @ rotation + deformation + translation[:, None]


def require_shape(name: str, values: Tensor, *shape: int | str) -> None:
    """Raise ValueError unless values have the shape; a letter stands for any size but 0."""
    fits = values.ndim == len(shape) and all(
        size > 0 if isinstance(expected, str) else size == expected
        for size, expected in zip(values.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected ({expected})")


def expected_degrees(logits: Tensor) -> Tensor:
    """Return degrees, (B,), expected under the softmax of (B, 66) logits: `degrees_from_bins` for tensors.

    Raises ValueError for another shape.
    """
    require_shape("logits", logits, "B", POSE_BIN_COUNT)
    bins = torch.arange(POSE_BIN_COUNT, dtype=logits.dtype, device=logits.device)
    return DEGREES_PER_BIN * (logits.softmax(dim=1) @ bins) + DEGREES_OF_FIRST_BIN


def rotation_of_angles(angles: Tensor) -> Tensor:
    """Return R, (B, 3, 3), for row vectors, of (B, 3) degrees (pitch, yaw, roll): `extractor_rotation` for tensors.

    Raises ValueError for another shape.
    """
    require_shape("angles", angles, "B", 3)
    (cp, cy, cr), (sp, sy, sr) = (part(torch.deg2rad(angles)).unbind(1) for part in (torch.cos, torch.sin))
    rows = [
        [cr * cy, sr * cy, -sy],
        [cr * sy * sp - sr * cp, sr * sy * sp + cr * cp, cy * sp],
        [cr * sy * cp + sr * sp, sr * sy * cp - cr * sp, cy * cp],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
