"""Video: loading, taking apart, putting together, saving; VIDEO values that stay on disk as long as they can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.host import host
from ...runtime.input_files import input_path
from ...runtime.output_files import next_output_file, prefix_validity, workflow_metadata
from .uploads import fingerprint, upload_input, validity

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ...core_models.audio.decode import Sound

CONTAINERS = ["auto", "mp4"]
CODECS = ["auto", "h264"]


@dataclass(frozen=True)
class VideoComponents:
    """A video in memory.

    images: (N, H, W, 3) float32 0..1. frame_rate: frames per second. audio: AUDIO, None without sound.
    """

    images: torch.Tensor
    frame_rate: Fraction
    audio: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class VideoFromComponents:
    """A VIDEO made of pictures and sound in memory."""

    components: VideoComponents

    def get_components(self) -> VideoComponents:
        """Return pictures, rate and sound."""
        return self.components

    def get_dimensions(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self.components.images.shape[2], self.components.images.shape[1]

    def get_duration(self) -> float:
        """Return seconds."""
        return float(len(self.components.images) / self.components.frame_rate)

    def frame_count(self) -> int:
        """Return the number of frames."""
        return len(self.components.images)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 RGB frames."""
        for image in self.components.images:
            yield (image[..., :3] * 255).clamp(0, 255).byte().cpu().numpy()

    def sound(self) -> Sound | None:
        """Return the sound, None without."""
        from ...core_models.audio.decode import sound_from_comfy

        audio = self.components.audio
        return None if audio is None else sound_from_comfy(audio)

    def save_to(self, path: str, metadata: Mapping[str, str] | None = None, **_: Any) -> None:
        """Write an mp4 file; metadata values are texts."""
        _write(self, Path(path), metadata)


@dataclass(frozen=True)
class VideoFromFile:
    """A VIDEO that is a file; frames are decoded when they are asked for."""

    path: Path

    def get_stream_source(self) -> str:
        """Return the path."""
        return str(self.path)

    def get_components(self) -> VideoComponents:
        """Return all pictures, rate and sound, in memory."""
        import torch

        sound, stream = self.sound(), self._stream()
        pictures = [torch.from_numpy(frame.copy()).float() / 255 for frame in stream]
        audio = None
        if sound is not None:
            from ...core_models.audio.decode import sound_to_comfy

            audio = sound_to_comfy(sound)
        return VideoComponents(torch.stack(pictures), self.frame_rate(), audio)

    def get_dimensions(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self._stream().size

    def get_duration(self) -> float:
        """Return seconds, as the file's header says."""
        return self.frame_count() / float(self.frame_rate())

    def frame_count(self) -> int:
        """Return the number of frames that the file's header promises."""
        return self._stream().frame_count

    def frame_rate(self) -> Fraction:
        """Return frames per second."""
        from ...core_models.audio.frame_clock import exact_rate

        return exact_rate(self._stream().fps)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 RGB frames."""
        return iter(self._stream())

    def sound(self) -> Sound | None:
        """Return the sound, None when the file has none."""
        import av

        from ...core_models.audio.decode import decode_sound

        with av.open(str(self.path)) as container:
            silent = not container.streams.audio
        return None if silent else decode_sound(self.path)

    def save_to(self, path: str, metadata: Mapping[str, str] | None = None, **_: Any) -> None:
        """Write an mp4 file, encoded anew; metadata values are texts."""
        _write(self, Path(path), metadata)

    def _stream(self) -> Any:
        from ...core_models.video_file import read_video_frames

        return read_video_frames(self.path)


Video = VideoFromComponents | VideoFromFile


def _write(video: Video, path: Path, metadata: Mapping[str, str] | None) -> None:
    from ...core_models.video_file import write_video

    rate = video.frame_rate() if isinstance(video, VideoFromFile) else video.components.frame_rate
    total = video.frame_count()
    progress = host().progress(total)
    write_video(
        path, video.frames(), float(rate), video.sound(), metadata, progress.update, frame_total=total
    )


class LoadVideo:
    """A video file as VIDEO."""

    CATEGORY = "image/video"
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": upload_input("video_upload", "video")}}

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return validity(file, "video")

    @classmethod
    def IS_CHANGED(cls, file: str | None) -> str | float:
        return fingerprint(file)

    def load(self, file: str) -> tuple[VideoFromFile]:
        """Return the file; nothing is decoded yet."""
        return (VideoFromFile(input_path(file)),)


class GetVideoComponents:
    """The pictures, sound and rate of a VIDEO."""

    CATEGORY = "image/video"
    RETURN_TYPES = ("IMAGE", "AUDIO", "FLOAT")
    RETURN_NAMES = ("images", "audio", "fps")
    FUNCTION = "take_apart"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"video": ("VIDEO", {"tooltip": "The video to take apart."})}}

    def take_apart(self, video: Video) -> tuple[torch.Tensor, Any, float]:
        """Return IMAGE, AUDIO (None without sound) and frames per second."""
        components = video.get_components()
        return components.images, components.audio, float(components.frame_rate)


class CreateVideo:
    """Pictures, and sound if there is any, as VIDEO."""

    CATEGORY = "image/video"
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "create"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The frames."}),
                "fps": ("FLOAT", {"default": 30.0, "min": 1.0, "max": 120.0, "step": 1.0}),
            },
            "optional": {"audio": ("AUDIO", {"tooltip": "The sound."})},
        }

    def create(
        self, images: torch.Tensor, fps: float, audio: Mapping[str, Any] | None = None
    ) -> tuple[VideoFromComponents]:
        """Return the video; nothing is encoded yet."""
        from ...core_models.audio.frame_clock import exact_rate

        return (VideoFromComponents(VideoComponents(images, exact_rate(fps), audio)),)


class SaveVideo:
    """An mp4 file in the output folder, with the graph inside."""

    CATEGORY = "image/video"
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "video": ("VIDEO", {"tooltip": "The video to save."}),
                "filename_prefix": (
                    "STRING",
                    {"default": "video/ComfyUI", "tooltip": "Where in the output folder."},
                ),
                "format": (CONTAINERS, {"default": "auto", "tooltip": "The container format."}),
                "codec": (CODECS, {"default": "auto", "tooltip": "The video codec."}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = "") -> bool | str:
        return prefix_validity(filename_prefix)

    def save(
        self,
        video: Video,
        filename_prefix: str,
        format: str,
        codec: str,
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Encode frame by frame."""
        output = next_output_file(filename_prefix, ".mp4", video.get_dimensions())
        _write(video, output.path, workflow_metadata(prompt, extra_pnginfo))
        return {"ui": {"images": [output.reference], "animated": (True,)}}
