"""Loading a portrait, speech and a driving video: the user's files, or the demo's."""

from __future__ import annotations

from typing import Any

CATEGORY = "TalkingPortrait/Inputs"

DEMO_PORTRAIT = "demo: astronaut (NASA, public domain)"
DEMO_HEAD = "demo: made head (drawn by this project)"
DEMO_SPEECH = "demo: speech"
DEMO_DRIVING_VIDEO = "demo: driving clip"


class LoadPortraitImage:
    """A picture file, with the landmarks that lie beside it."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads the picture that will talk. The demo portrait needs no upload and no face detector."
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "landmarks")
    OUTPUT_TOOLTIPS = (
        "The picture, upright, its transparent parts over neutral grey.",
        "Path of the landmarks file that lies beside the picture (photo.landmarks.json beside photo.jpg), "
        "or an empty text. Connect it to Portrait, which then needs no face detector.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.input_files import input_files

        return {
            "required": {
                "image": (
                    [DEMO_PORTRAIT, DEMO_HEAD, *input_files("image")],
                    {
                        "image_upload": True,
                        "tooltip": "The portrait: a file in the input folder, or a demo. The made head is for small "
                        "models trained here, such as ACTalker's pocket.",
                    },
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:
        return True if image == DEMO_HEAD else _exists(image, DEMO_PORTRAIT)

    @classmethod
    def IS_CHANGED(cls, image: str | None) -> str:
        return DEMO_HEAD if image == DEMO_HEAD else _fingerprint(image, DEMO_PORTRAIT)

    def load(self, image: str) -> tuple[Any, str]:
        from ..core_models.face.picture import load_picture
        from ..runtime.input_files import demo_head, demo_portrait, input_path, landmarks_beside
        from .images import image_from_frames

        if image == DEMO_PORTRAIT:
            frame, landmarks = demo_portrait()
        elif image == DEMO_HEAD:
            frame, landmarks = demo_head()
        else:
            path = input_path(image)
            frame, landmarks = load_picture(path), landmarks_beside(path)
        return image_from_frames([frame]), str(landmarks or "")


class LoadSpeech:
    """A sound file, or the sound of a video file."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads the speech the portrait will say, from a sound or video file of any common format."
    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    OUTPUT_TOOLTIPS = ("The sound as it is in the file: its own rate and channels.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.input_files import input_files

        return {
            "required": {
                "audio": (
                    [DEMO_SPEECH, *input_files("audio", "video")],
                    {"audio_upload": True, "tooltip": "The speech: a file in the input folder, or the demo."},
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, audio: str | None) -> bool | str:
        return _exists(audio, DEMO_SPEECH)

    @classmethod
    def IS_CHANGED(cls, audio: str | None) -> str:
        return _fingerprint(audio, DEMO_SPEECH)

    def load(self, audio: str) -> tuple[dict[str, Any]]:
        from ..core_models.audio.decode import decode_sound, sound_to_comfy
        from ..runtime.input_files import DEMO_SPEECH_FILE, input_path

        path = DEMO_SPEECH_FILE if audio == DEMO_SPEECH else input_path(audio)
        return (sound_to_comfy(decode_sound(path)),)


class LoadDrivingVideo:
    """A video file as frames at a constant rate, with its sound."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads a video whose face will drive the portrait. Videos of variable frame rate are brought to a "
        "constant one, so that picture and sound stay together."
    )
    RETURN_TYPES = ("IMAGE", "FLOAT", "AUDIO")
    RETURN_NAMES = ("frames", "fps", "audio")
    OUTPUT_TOOLTIPS = (
        "The video's frames, one picture each.",
        "Frames per second, constant.",
        "The video's sound; nothing when it has none.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.input_files import input_files

        return {
            "required": {
                "video": (
                    [DEMO_DRIVING_VIDEO, *input_files("video")],
                    {"video_upload": True, "tooltip": "A file in the input folder, or the demo."},
                ),
                "largest_side": (
                    "INT",
                    {
                        "default": 512,
                        "min": 0,
                        "max": 8192,
                        "step": 64,
                        "tooltip": "Frames are shrunk to this many pixels on their longer side, which is "
                        "enough to read a face and saves memory. 0 keeps their size.",
                    },
                ),
                "start": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 86400.0,
                        "step": 0.1,
                        "tooltip": "Seconds to leave out at the beginning.",
                    },
                ),
                "duration": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 86400.0,
                        "step": 0.1,
                        "tooltip": "Seconds to take. 0 takes everything up to the end.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, video: str | None) -> bool | str:
        return _exists(video, DEMO_DRIVING_VIDEO)

    @classmethod
    def IS_CHANGED(cls, video: str | None, **_: Any) -> str:
        return _fingerprint(video, DEMO_DRIVING_VIDEO)

    def load(
        self, video: str, largest_side: int, start: float, duration: float
    ) -> tuple[Any, float, dict[str, Any] | None]:
        from ..core_models.audio.decode import sound_to_comfy
        from ..core_models.driving_video import read_driving_video
        from ..runtime.host import host
        from ..runtime.input_files import DEMO_DRIVING_FILE, input_path
        from .images import image_from_frames

        path = DEMO_DRIVING_FILE if video == DEMO_DRIVING_VIDEO else input_path(video)
        progress = host().progress(1).update
        clip = read_driving_video(path, start, duration or None, largest_side, progress)
        sound = sound_to_comfy(clip.sound) if clip.sound is not None else None
        return image_from_frames(clip.frames), clip.fps, sound


def _exists(name: str | None, demo: str) -> bool | str:
    """Say whether a file can be loaded: True, or what is wrong. A linked input arrives as None."""
    from ..runtime.input_files import input_path

    if name is None or name == demo:
        return True
    try:
        input_path(name)
    except OSError as error:
        return str(error)
    return True


def _fingerprint(name: str | None, demo: str) -> str:
    """Return a text that changes when the file does."""
    from ..runtime.input_files import file_fingerprint, input_path

    return str(name) if name is None or name == demo else file_fingerprint(input_path(name))
