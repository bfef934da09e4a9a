"""Sound in: any file that PyAV reads, the sound of video files, and ComfyUI's AUDIO."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..media_container import expect_decoder, is_cover_picture, open_media, stream_kinds
from ..types import frozen_array

logger = logging.getLogger(__name__)

ALIGNMENT_SLACK = 0.001
"""Seconds by which sound and picture of a file may start apart before it is corrected."""


@dataclass(frozen=True)
class Sound:
    """Samples of a sound.

    waveform: (C, T) float32, C channels of T samples, T > 0; full scale is -1..1 and louder values are kept.
    sample_rate: samples per second, > 0.
    Raises ValueError for another shape, 0 samples, NaN or infinite samples, or a bad rate.
    """

    waveform: np.ndarray
    sample_rate: int

    def __post_init__(self) -> None:
        if int(self.sample_rate) != self.sample_rate or self.sample_rate <= 0:
            raise ValueError(f"the sample rate is {self.sample_rate}, expected a whole number of Hz above 0")
        object.__setattr__(self, "sample_rate", int(self.sample_rate))
        object.__setattr__(self, "waveform", frozen_array(self.waveform))
        if self.waveform.ndim != 2 or self.waveform.shape[0] == 0:
            raise ValueError(f"the waveform has shape {self.waveform.shape}, expected (channels, samples)")
        if self.waveform.shape[1] == 0:
            raise ValueError("the sound has 0 samples; use one that lasts at least a few milliseconds")
        _expect_finite(self.waveform, self.sample_rate)

    @property
    def channel_count(self) -> int:
        return self.waveform.shape[0]

    @property
    def sample_count(self) -> int:
        """Samples per channel."""
        return self.waveform.shape[1]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.sample_count / self.sample_rate


def _expect_finite(waveform: np.ndarray, sample_rate: int) -> None:
    bad = ~np.isfinite(waveform)
    if not bad.any():
        return
    first = int(np.flatnonzero(bad.any(axis=0))[0])
    channel = int(np.flatnonzero(bad[:, first])[0])
    raise ValueError(
        f"the sound has {int(bad.sum())} NaN or infinite samples of {waveform.size}, the first at "
        f"{first / sample_rate:.4f} s (channel {channel}, sample {first}); repair or re-export it"
    )


def decode_sound(path: str | os.PathLike[str]) -> Sound:
    """Return the first sound of a file: audio files of every format PyAV reads, and video files.

    Any sample format (8 to 64 bit, integer or float), channel count and rate; nothing is mixed, resampled or
    clipped. In a video file sample 0 belongs to the start of the first frame: sound that starts later gets
    silence in front, sound that starts earlier loses that part.
    Raises FileNotFoundError or another OSError for a path that cannot be read, and ValueError for a file
    that is not sound or video, has no sound, 0 samples, or NaN or infinite samples.
    """
    path = Path(path)
    with open_media(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound: its streams are {stream_kinds(container)}")
        expect_decoder(container.streams.audio[0], path)
        waveform, sample_rate = _decode_stream(container, container.streams.audio[0], path)
    try:
        return Sound(waveform, sample_rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _decode_stream(
    container: av.container.InputContainer, stream: av.AudioStream, path: Path
) -> tuple[np.ndarray, int]:
    """Return (C, T) float32 and its rate, aligned with the first picture where there is one."""
    pieces: list[np.ndarray] = []
    start: float | None = None
    sample_rate, channels = 0, 0
    for frame in _frames(container, stream, path):
        if not pieces:
            sample_rate, channels = frame.sample_rate, len(frame.layout.channels)
            start = frame.time
            resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=sample_rate)
        now = len(frame.layout.channels), frame.sample_rate
        if now != (channels, sample_rate):
            raise ValueError(
                f"{path} changes from {channels} channels at {sample_rate} Hz to {now[0]} at {now[1]} Hz "
                "within the sound; re-export it with one layout"
            )
        pieces.append(_to_float(frame, resampler))
    if not pieces:
        raise ValueError(f"{path} has a sound stream with 0 samples")
    waveform = np.concatenate(pieces, axis=1)[:, : _edited_length(container, stream)]
    return _aligned(waveform, sample_rate, start, _picture_start(container)), sample_rate


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream, path: Path
) -> Iterator[av.AudioFrame]:
    """Yield decoded frames. Damage at the very end is logged and left out; elsewhere it is an error."""
    damage: av.error.FFmpegError | None = None
    time = 0.0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            damage = damage or error
            continue
        if frames and damage is not None:
            raise ValueError(f"{path} is damaged at about {time:.2f} s ({damage.strerror})") from damage
        for frame in frames:
            time = frame.time if frame.time is not None else time
            yield frame
    if damage is not None:
        logger.warning("%s is damaged at its end, after %.2f s (%s)", path, time, damage.strerror)


def _to_float(frame: av.AudioFrame, resampler: av.AudioResampler) -> np.ndarray:
    """Return one decoded frame as (C, T) float32 with full scale -1..1.

    The resampler only packs and scales. Planar frames are never read directly: PyAV 18 counts the planes of 8
    channels wrongly and crashes.
    """
    packed = [part.to_ndarray().reshape(-1, len(frame.layout.channels)) for part in resampler.resample(frame)]
    return np.concatenate(packed).T


def _edited_length(container: av.container.InputContainer, stream: av.AudioStream) -> int | None:
    """Return how many samples an mp4's edit list keeps; None for other formats.

    The codec's last block is padded, and the decoder does not drop the padding by itself.
    """
    if "mp4" not in container.format.name or not stream.duration or not stream.rate:
        return None
    return max(1, round(stream.duration * Fraction(stream.time_base) * stream.rate))


def _picture_start(container: av.container.InputContainer) -> float | None:
    """Return when the first picture starts in seconds; None without moving pictures."""
    for stream in container.streams.video:
        if not is_cover_picture(stream) and stream.start_time is not None:
            return float(stream.start_time * Fraction(stream.time_base))
    return None


def _aligned(
    waveform: np.ndarray, sample_rate: int, start: float | None, picture_start: float | None
) -> np.ndarray:
    if start is None or picture_start is None or abs(start - picture_start) < ALIGNMENT_SLACK:
        return waveform
    offset = round((start - picture_start) * sample_rate)
    if offset < 0:
        return waveform[:, -offset:]
    return np.pad(waveform, ((0, 0), (offset, 0)))


def sound_from_comfy(audio: Mapping[str, Any], index: int | None = None) -> Sound:
    """Return one item of ComfyUI's AUDIO, {"waveform": (B, C, T) float tensor, "sample_rate": int}.

    index: which item of the batch; may be left out when there is only one.
    Raises ValueError for a value that is not AUDIO, a batch without an index, or an index outside it.
    """
    if not isinstance(audio, Mapping) or not {"waveform", "sample_rate"} <= set(audio):
        raise ValueError(f"expected AUDIO with 'waveform' and 'sample_rate', got {_describe(audio)}")
    waveform = audio["waveform"]
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu().float().numpy()
    waveform = np.asarray(waveform)
    if waveform.ndim != 3 or waveform.shape[0] == 0:
        raise ValueError(
            f"the AUDIO waveform has shape {waveform.shape}, expected (batch, channels, samples)"
        )
    count = len(waveform)
    if index is None and count > 1:
        raise ValueError(f"the AUDIO holds {count} sounds: choose one by its index, 0 to {count - 1}")
    chosen = index or 0
    if not 0 <= chosen < count:
        raise ValueError(f"sound {chosen} was asked for, but the AUDIO holds {count} (0 to {count - 1})")
    return Sound(waveform[chosen], audio["sample_rate"])


def _describe(value: Any) -> str:
    return f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__


def sound_to_comfy(sound: Sound) -> dict[str, Any]:
    """Return ComfyUI's AUDIO: {"waveform": (1, C, T) float32 tensor on the CPU, "sample_rate": int}."""
    import torch

    return {"waveform": torch.from_numpy(sound.waveform.copy())[None], "sample_rate": sound.sample_rate}
