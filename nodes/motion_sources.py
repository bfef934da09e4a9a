"""Motion tracks from videos and tables, and back into tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..runtime.faces import face_landmarker
from .face import FACE_INDEX_INPUT, chosen_face
from .liveportrait import OPTIONAL_RENDERER_INPUT
from .motion import CATEGORY, FPS_INPUT

if TYPE_CHECKING:
    from ..core_models.face.landmarker import DetectedFace
    from ..core_models.types import FaceMotion, ModelHandle, RendererModels


class MotionFromVideo:
    """The motion of a face in a video."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Follows the face in a video and reads its expression and head pose. What is read is the movement "
        "away from the driver's resting face, so that it fits any portrait. With LivePortrait connected it reads "
        "implicit keypoints, else blendshapes. The faces come from a face detector, or from ComfyUI's own face nodes."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion at the video's rate.",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.keypoints_from_video import CROP_CHOICES
        from ..core_models.motion.missing_faces import MISSING_FACE_POLICIES

        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The frames of the driving video."}),
                "fps": (
                    "FLOAT",
                    {**FPS_INPUT, "tooltip": "Frames per second of the video; connect the loader's fps."},
                ),
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
                        "readings as they are. LivePortrait counts from rest_frame instead.",
                    },
                ),
            },
            "optional": {
                "face_detector": (
                    "FACE_MODEL",
                    {"tooltip": "From Load Face Detector: finds and follows the face."},
                ),
                "face_landmarks": (
                    "FACE_LANDMARKS",
                    {
                        "tooltip": "Faces found by ComfyUI's own MediaPipe node on the same frames, instead of that."
                    },
                ),
                "renderer": OPTIONAL_RENDERER_INPUT,
                "crop": (
                    list(CROP_CHOICES),
                    {
                        "default": "automatic",
                        "tooltip": "LivePortrait: cut a square around the face, one for the whole video. automatic "
                        "leaves videos alone that are such a square already.",
                    },
                ),
                "rest_frame": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 999999,
                        "tooltip": "LivePortrait: the frame that counts as the driver's rest, among those that have "
                        "a face. A relaxed, frontal one is best.",
                    },
                ),
            },
        }

    def read(
        self,
        frames: Any,
        fps: float,
        on_missing_face: str,
        face_index: int,
        smoothing: int,
        calibrate: bool,
        face_detector: ModelHandle | None = None,
        face_landmarks: Any = None,
        renderer: RendererModels | None = None,
        crop: str = "automatic",
        rest_frame: int = 0,
    ) -> tuple[FaceMotion]:
        from ..core_models.motion.keypoints_from_video import DriverParameters
        from ..runtime.driving_motion import driving_motion
        from ..runtime.host import host
        from .images import checked_image, frames_from_image

        total = len(checked_image(frames))
        with faces_of_frames(frames, face_detector, face_landmarks, chosen_face(face_index)) as faces:
            motion = driving_motion(
                lambda: frames_from_image(frames),
                faces,
                fps,
                total,
                DriverParameters(crop, on_missing_face, rest_frame, smoothing),
                calibrate,
                renderer,
                host().progress(total).update,
            )
        return (motion,)


@contextmanager
def faces_of_frames(
    frames: Any, face_detector: ModelHandle | None, face_landmarks: Any, face_index: int | None
) -> Iterator[Iterable[DetectedFace | None]]:
    """Give the face in each frame: found by the detector, or as ComfyUI's own node found it."""
    from ..core_models.face.tracking import comfy_faces, follow_face
    from .images import frames_from_image

    if face_landmarks is not None:
        size = (frames.shape[2], frames.shape[1])
        yield comfy_faces(face_landmarks, size, len(frames), face_index)
        return
    if face_detector is None:
        raise ValueError(
            "nothing says where the face is: connect face_detector (a Load Face Detector node) or face_landmarks"
        )
    with face_landmarker(face_detector) as landmarker:
        yield follow_face(frames_from_image(frames), landmarker, face_index)


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
                    {
                        "default": "motion.csv",
                        "names_file": "input",
                        "tooltip": "The file's name in the input folder, or its path in the input, output or "
                        "temporary folder.",
                    },
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
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        from ..runtime.input_files import text_validity

        if file is not None and not file.strip():
            return "name a file"
        return text_validity(file)

    @classmethod
    def IS_CHANGED(cls, file: str | None, **_: Any) -> str:
        from ..runtime.input_files import file_fingerprint, input_path

        return "" if file is None else file_fingerprint(input_path(file.strip()))

    def read(self, file: str, fps: float) -> tuple[FaceMotion, float]:
        from ..core_models.motion.arkit_csv import read_arkit_csv
        from ..runtime.input_files import input_path

        motion = read_arkit_csv(input_path(file.strip()), fps or None)
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

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = "") -> bool | str:
        from ..runtime.output_files import prefix_validity

        return prefix_validity(filename_prefix)

    def save(self, motion: FaceMotion, filename_prefix: str) -> dict[str, Any]:
        from ..core_models.motion.arkit_csv import write_arkit_csv
        from ..runtime.output_files import next_output_file

        output = next_output_file(filename_prefix, ".csv")
        write_arkit_csv(motion, output.path)
        return {"ui": {"text": (str(output.path),)}, "result": (str(output.path),)}
