"""LivePortrait: its networks as a handle, and motion fitted to a portrait in implicit keypoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, Portrait, PortraitVideo, RendererModels

CATEGORY = "TalkingPortrait/LivePortrait"

LIVEPORTRAIT, MESH = "LivePortrait", "mesh (embedded, no weights)"

_RENDERER_SOURCE = "From Load LivePortrait, which also offers the mesh renderer."
RENDERER_INPUT = ("RENDERER", {"tooltip": _RENDERER_SOURCE})
OPTIONAL_RENDERER_INPUT = (
    "RENDERER",
    {"tooltip": f"{_RENDERER_SOURCE} Not connected means the mesh renderer."},
)


class LoadLivePortrait:
    """LivePortrait's networks, or the mesh renderer, as a handle."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Chooses what draws the portrait: LivePortrait's networks (published weights, MIT), or the embedded mesh "
        "renderer. Connect it to every node with a renderer socket; changing the menu then changes all of them. "
        "Nothing is fetched unless you switch it on."
    )
    RETURN_TYPES = ("RENDERER",)
    RETURN_NAMES = ("renderer",)
    OUTPUT_TOOLTIPS = ("For Motion from Video, Retarget Motion, Stitch and the Warping Renderer.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.renderer_models import PRECISIONS

        return {
            "required": {
                "model": (
                    [LIVEPORTRAIT, MESH],
                    {"default": LIVEPORTRAIT, "tooltip": "LivePortrait, or the mesh renderer."},
                ),
                "precision": (
                    list(PRECISIONS),
                    {
                        "default": "auto",
                        "tooltip": "How the frames are computed. auto: float16 on a graphics card, float32 "
                        "elsewhere. bfloat16 is quicker on processors made for it, and a little less exact.",
                    },
                ),
                "compile": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Let torch.compile work on the networks first: a minute's wait for the "
                        "first frame, then quicker ones. Worth it for long videos on a graphics card; without "
                        "effect on a processor.",
                    },
                ),
                "download_if_missing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fetch the files (about 520 MB) when no models folder holds them.",
                    },
                ),
            }
        }

    def load(
        self, model: str, precision: str, compile: bool, download_if_missing: bool
    ) -> tuple[RendererModels]:
        from ..core_models.types import RendererModels
        from ..runtime.host import host
        from ..runtime.renderer_models import liveportrait_models

        if model == MESH:
            return (RendererModels(),)
        progress = host().progress(1).update
        return (liveportrait_models(precision, compile, download_if_missing, progress),)


def _switch(default: bool, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "BOOLEAN", {"default": default, "tooltip": tooltip}


class Stitch:
    """Motion in implicit keypoints fitted to one portrait."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Fits a driver's motion to the portrait as LivePortrait does: relative or absolute, all of it or one "
        "region, stitched so that neck and shoulders stay, eyes and lips retargeted. Motion for the mesh "
        "renderer needs none of this and passes through unchanged."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion for this portrait; connect it to the Warping Renderer.",)
    FUNCTION = "fit"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.keypoint_driving import DRIVEN_REGIONS, DRIVING_MODES

        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The driver's motion."}),
                "portrait": ("PORTRAIT", {"tooltip": "Who is to move: a picture, or a film that is edited."}),
                "renderer": RENDERER_INPUT,
                "mode": (
                    list(DRIVING_MODES),
                    {
                        "default": "relative",
                        "tooltip": "relative adds how the driver moves to how the portrait looks; absolute "
                        "makes the portrait look as the driver does.",
                    },
                ),
                "region": (
                    list(DRIVEN_REGIONS),
                    {"default": "all", "tooltip": "What follows the driver; the rest stays the portrait's."},
                ),
                "stitching": _switch(True, "Keep neck and shoulders where the picture has them."),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "Factor for the whole movement.",
                    },
                ),
                "fit_expression": _switch(
                    False,
                    "Count the movement from its own first frame, scaled by the face's size there (the release's "
                    "expression-friendly). Without effect on motion that begins at its rest.",
                ),
                "close_lips": _switch(
                    False,
                    "First close lips that the portrait shows apart. Relative mode only, and not together with eye "
                    "or lip retargeting.",
                ),
                "eye_retargeting": _switch(
                    False,
                    "Open the eyes as far as the driver's are open. In relative mode the rest of the motion "
                    "is dropped unless keep_motion is on.",
                ),
                "lip_retargeting": _switch(
                    False,
                    "Open the lips as far as the driver's are open. In relative mode the rest of the motion "
                    "is dropped unless keep_motion is on.",
                ),
                "keep_motion": _switch(
                    False,
                    "Add eye and lip retargeting to the motion, not instead of it. Where the motion opens them too, "
                    "they open further than the driver's.",
                ),
                "keep_source_eyes": _switch(
                    False,
                    "Of a film, keep the eyes as open as they are in its first frame. Not together with eye or lip "
                    "retargeting.",
                ),
                "smoothing": (
                    "FLOAT",
                    {
                        "default": 3e-7,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 1e-7,
                        "round": 1e-9,
                        "tooltip": "Of a film: how much the composed motion is smoothed, as the observation "
                        "variance of a Kalman smoother; 0.00001 is strong.",
                    },
                ),
            }
        }

    def fit(
        self,
        motion: FaceMotion,
        portrait: Portrait | PortraitVideo,
        renderer: RendererModels,
        **settings: Any,
    ) -> tuple[FaceMotion]:
        from ..runtime.host import host
        from ..runtime.liveportrait_motion import fitted_motion

        return (fitted_motion(motion, portrait, renderer, settings, host().progress(1).update),)


class RetargetMotion:
    """Motion in blendshapes as motion for LivePortrait."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Turns motion in blendshapes (from speech, from a table of an iPhone, from a video read for the mesh "
        "renderer) into implicit keypoints, so that it drives LivePortrait. Motion that fits the renderer "
        "already passes through unchanged."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion in the renderer's space.",)
    FUNCTION = "retarget"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "Motion in blendshapes."}),
                "portrait": (
                    "PORTRAIT",
                    {
                        "tooltip": "Who is to move: the size and the turn of the face are needed; of a film "
                        "those of its first frame count."
                    },
                ),
                "renderer": RENDERER_INPUT,
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 2.0,
                        "step": 0.05,
                        "tooltip": "Factor for the expression.",
                    },
                ),
            },
            "optional": {
                "calibration": (
                    "STRING",
                    {
                        "default": "",
                        "names_file": "input",
                        "tooltip": "A calibration file in the input folder, as 'talking-portrait calibrate' writes it. "
                        "Empty: the shipped table.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, calibration: str | None = "") -> bool | str:
        from ..runtime.input_files import text_validity

        return text_validity(calibration)

    @classmethod
    def IS_CHANGED(cls, calibration: str | None = "", **_: Any) -> str:
        from ..runtime.input_files import file_fingerprint, input_path

        return file_fingerprint(input_path(calibration)) if calibration and calibration.strip() else ""

    def retarget(
        self,
        motion: FaceMotion,
        portrait: Portrait | PortraitVideo,
        renderer: RendererModels,
        strength: float,
        calibration: str = "",
    ) -> tuple[FaceMotion]:
        from ..runtime.input_files import input_path
        from ..runtime.liveportrait_motion import motion_for_renderer

        file = input_path(calibration) if calibration.strip() and motion.space != renderer.space else None
        return (motion_for_renderer(motion, portrait, renderer, strength, file),)
