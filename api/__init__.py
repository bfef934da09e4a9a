"""The Python interface: a few verbs for scripts, over the functions that the nodes call. Importing this is light.

`talking_portrait` itself gives every name of EXPORTED; see docs/python.md.
"""

from __future__ import annotations

import importlib
from typing import Any

EXPORTED: dict[str, str] = {
    **dict.fromkeys(("load_portrait", "load_portrait_video", "demo_portrait", "demo_head"), "api.portraits"),
    **dict.fromkeys(("load_sound", "DEMO_SPEECH", "DEMO_DRIVING_VIDEO"), "api.files"),
    **dict.fromkeys(
        ("load_keypoint_diffusion", "load_liveportrait", "load_actalker", "load_fantasytalking"), "api.models"
    ),
    **dict.fromkeys(("embed", "sample"), "api.sampling"),
    "SampledVideo": "api.video_sampling",
    **dict.fromkeys(("emotion", "read_motion", "mix", "retarget", "stitch"), "api.motions"),
    **dict.fromkeys(("render", "save_video", "Rendering"), "api.rendering"),
    "cancel": "api.work",
    **dict.fromkeys(("scale_motion",), "core_models.motion.regions"),
    **dict.fromkeys(("smooth_motion", "slice_motion", "join_motion"), "core_models.motion.track"),
    **dict.fromkeys(("read_arkit_csv", "write_arkit_csv"), "core_models.motion.arkit_csv"),
    "Sound": "core_models.audio.decode",
    **dict.fromkeys(
        ("AudioEmbedding", "Emotion", "FaceMotion", "Portrait", "PortraitVideo"), "core_models.types"
    ),
    "MotionIntensity": "core_models.wan_types",
    "KDTalkerOptions": "core_models.keypoint_diffusion.kdtalker_performance",
    "FaceNotFoundError": "core_models.face.landmarker",
    "WeightNotFoundError": "runtime.weights",
    "WorkCancelledError": "runtime.host",
}
"""Name that `talking_portrait` gives -> the module that holds it."""


def exported_value(package: str, name: str) -> Any:
    """Return what a package of this code, by the name it was imported under, exports by a name.

    Raises AttributeError for a name that is not exported.
    """
    if name not in EXPORTED:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{EXPORTED[name]}"), name)
