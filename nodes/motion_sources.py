"""Motion tracks from videos and tables, and back into tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .face import FACE_INDEX_INPUT, chosen_face, face_landmarker
from .liveportrait import RENDERER_INPUT
from .motion import CATEGORY, FPS_INPUT

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, ModelHandle, RendererModels


class MotionFromVideo:
    """The motion of a face in a video."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Follows the face in a video and reads its expression and head pose. What is read is the movement "
        "away from the driver's resting face, so that it fits any portrait. With LivePortrait connected it reads "
        "implicit keypoints, else blendshapes."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion at the video's rate.",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.missing_faces import MISSING_FACE_POLICIES

        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The frames of the driving video."}),
                "fps": (
                    "FLOAT",
                    {**FPS_INPUT, "tooltip": "Frames per second of the video; connect the loader's fps."},
                ),
                "face_detector": ("FACE_MODEL", {"tooltip": "From Load Face Detector."}),
                "on_missing_face": (
                    list(MISSING_FACE_POLICIES),
                    {
                        "default": "interpolate",
                        "tooltip": "When a frame has no face: error stops; previous repeats the last one; "
                        "interpolate goes over to the next; skip leaves the frame out, which makes the "
                        "motion shorter.",
                    },
                ),
                "face_index": FACE_INDEX_INPUT,
                "smoothing": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 20,
                        "tooltip": "Passes of smoothing over the readings; blinks are never smoothed. 0 leaves them "
                        "as they are, as LivePortrait does.",
                    },
                ),
                "calibrate": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Take the driver's resting face as the rest of the motion. Off: keep the "
                        "readings as they are. LivePortrait always counts from the first frame.",
                    },
                ),
            },
            "optional": {
                "renderer": RENDERER_INPUT,
                "crop": (
                    ["automatic", "always", "never"],
                    {
                        "default": "automatic",
                        "tooltip": "LivePortrait: cut a square around the face, one for the whole video. automatic "
                        "leaves videos alone that are such a square already.",
                    },
                ),
            },
        }

    def read(
        self,
        frames: Any,
        fps: float,
        face_detector: ModelHandle,
        on_missing_face: str,
        face_index: int,
        smoothing: int,
        calibrate: bool,
        renderer: RendererModels | None = None,
        crop: str = "automatic",
    ) -> tuple[FaceMotion]:
        from ..core_models.types import MESH_RENDERER

        index = chosen_face(face_index)
        if renderer is None or renderer.kind == MESH_RENDERER:
            settings = {"smoothing": smoothing, "calibrate": calibrate}
            return (_blendshape_motion(frames, fps, face_detector, on_missing_face, index, **settings),)
        settings = {"crop": crop, "on_missing_face": on_missing_face, "face_index": index}
        return (_keypoint_motion(frames, fps, face_detector, renderer, smoothing, **settings),)


def _blendshape_motion(
    frames: Any,
    fps: float,
    face_detector: ModelHandle,
    on_missing_face: str,
    face_index: int | None,
    **settings: Any,
) -> FaceMotion:
    from ..core_models.motion.from_video import motion_from_frames
    from ..runtime.host import host
    from .images import checked_image, frames_from_image

    total = len(checked_image(frames))
    with face_landmarker(face_detector) as landmarker:
        return motion_from_frames(
            frames_from_image(frames),
            fps,
            landmarker,
            frame_total=total,
            on_missing_face=on_missing_face,
            face_index=face_index,
            progress=host().progress(total).update,
            **settings,
        )


def _keypoint_motion(
    frames: Any,
    fps: float,
    face_detector: ModelHandle,
    renderer: RendererModels,
    smoothing: int,
    **settings: Any,
) -> FaceMotion:
    from ..core_models.motion.keypoints_from_video import DriverParameters, keypoint_motion_from_frames
    from ..runtime.host import host
    from ..runtime.renderer_models import motion_extractor
    from .images import checked_image, frames_from_image

    total = len(checked_image(frames))
    with face_landmarker(face_detector) as landmarker, motion_extractor(renderer) as extractor:
        return keypoint_motion_from_frames(
            lambda: frames_from_image(frames),
            fps,
            landmarker,
            extractor,
            total,
            DriverParameters(smoothing=smoothing, **settings),
            host().progress(2 * total).update,
        )


class MotionFromCSV:
    """Motion from a table of ARKit coefficients."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Reads a table of the 52 ARKit coefficients and head angles, as iPhone capture apps (Live Link Face) "
        "export it."
    )
    RETURN_TYPES = ("FACE_MOTION", "FLOAT")
    RETURN_NAMES = ("motion", "fps")
    OUTPUT_TOOLTIPS = ("The motion.", "Its frames per second.")
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "file": (
                    "STRING",
                    {"default": "motion.csv", "tooltip": "The file's name in the input folder, or its path."},
                ),
                "fps": (
                    "FLOAT",
                    {
                        **FPS_INPUT,
                        "default": 0.0,
                        "min": 0.0,
                        "tooltip": "Frames per second of the table. 0 reads it from the table's time codes.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, file: str | None, **_: Any) -> str:
        from ..runtime.input_files import file_fingerprint, input_path

        return "" if file is None else file_fingerprint(input_path(file))

    def read(self, file: str, fps: float) -> tuple[FaceMotion, float]:
        from ..core_models.motion.arkit_csv import read_arkit_csv
        from ..runtime.input_files import input_path

        motion = read_arkit_csv(input_path(file), fps or None)
        return motion, float(motion.fps)


class SaveMotionCSV:
    """Motion as a table of ARKit coefficients."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Saves motion as a table that animation programs read (Live Link Face layout)."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Path of the file.",)
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The motion to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "motion/TalkingPortrait",
                        "tooltip": "Where in the output folder; a number and .csv are appended.",
                    },
                ),
            }
        }

    def save(self, motion: FaceMotion, filename_prefix: str) -> dict[str, Any]:
        from ..core_models.motion.arkit_csv import write_arkit_csv
        from ..runtime.output_files import next_output_file

        output = next_output_file(filename_prefix, ".csv")
        write_arkit_csv(motion, output.path)
        return {"ui": {"text": (str(output.path),)}, "result": (str(output.path),)}
