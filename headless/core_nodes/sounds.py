"""Sound: loading, saving, previewing."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from ...runtime.input_files import input_path
from ...runtime.output_files import next_output_file, prefix_validity, workflow_metadata
from .uploads import fingerprint, upload_input, validity


class LoadAudio:
    """A sound file, or the sound of a video file, as AUDIO."""

    CATEGORY = "audio"
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"audio": upload_input("audio_upload", "audio", "video")}}

    @classmethod
    def VALIDATE_INPUTS(cls, audio: str | None) -> bool | str:
        return validity(audio, "audio")

    @classmethod
    def IS_CHANGED(cls, audio: str | None) -> str | float:
        return fingerprint(audio)

    def load(self, audio: str) -> tuple[dict[str, Any]]:
        """Return the sound with the file's own rate and channels."""
        from ...core_models.audio.decode import decode_sound, sound_to_comfy

        return (sound_to_comfy(decode_sound(input_path(audio))),)


class TrimAudioDuration:
    """A part of a sound."""

    CATEGORY = "audio"
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "trim"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        furthest = float(0xFFFFFFFFFFFFFFFF)
        start = {"default": 0.0, "min": -furthest, "max": furthest, "step": 0.01}
        duration = {"default": 60.0, "min": 0.0, "step": 0.01}
        return {
            "required": {
                "audio": ("AUDIO",),
                "start_index": ("FLOAT", start),
                "duration": ("FLOAT", duration),
            }
        }

    def trim(self, audio: dict[str, Any], start_index: float, duration: float) -> tuple[dict[str, Any]]:
        """Return at most `duration` seconds from `start_index`, which counts from the end when it is negative.

        Raises ValueError when nothing remains.
        """
        waveform, rate = audio["waveform"], audio["sample_rate"]
        length, first = waveform.shape[-1], round(start_index * rate)
        first = max(0, min(first + (length if start_index < 0 else 0), length - 1))
        last = max(0, min(first + round(duration * rate), length))
        if first >= last:
            raise ValueError(
                f"nothing remains of {length / rate:g} s of sound: start_index is {start_index:g} s, duration "
                f"{duration:g} s"
            )
        return ({"waveform": waveform[..., first:last], "sample_rate": rate},)


class SaveAudio:
    """FLAC files in the output folder, with the graph inside."""

    CATEGORY = "audio"
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    KIND = "output"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "audio": ("AUDIO",),
                "filename_prefix": ("STRING", {"default": "audio/ComfyUI"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = "") -> bool | str:
        return prefix_validity(filename_prefix)

    def save(
        self,
        audio: dict[str, Any],
        filename_prefix: str = "ComfyUI",
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write one file per sound of the batch."""
        metadata = workflow_metadata(prompt, extra_pnginfo)
        references = []
        for number, waveform in enumerate(audio["waveform"]):
            prefix = filename_prefix.replace("%batch_num%", str(number))
            output = next_output_file(prefix, ".flac", kind=self.KIND)
            _write_flac(output.path, waveform.cpu().float().numpy(), int(audio["sample_rate"]), metadata)
            references.append(output.reference)
        return {"ui": {"audio": references}}


def _write_flac(path: Path, waveform: Any, sample_rate: int, metadata: dict[str, str]) -> None:
    """Write (channels, samples) float -1..1 as 16-bit FLAC, whole or not at all."""
    import av
    import numpy as np

    layout = "mono" if len(waveform) == 1 else "stereo"
    interleaved = np.ascontiguousarray(waveform[:2].T).reshape(1, -1)
    samples = np.clip(np.round(interleaved * 32768), -32768, 32767).astype(np.int16)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
    try:
        with av.open(str(unfinished), "w", format="flac") as container:
            container.metadata.update(metadata)
            stream = container.add_stream("flac", rate=sample_rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class PreviewAudio(SaveAudio):
    """FLAC files in the temporary folder."""

    KIND = "temp"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"audio": ("AUDIO",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }
