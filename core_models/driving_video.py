"""A driving video: frames at a constant rate, small enough to keep, with the sound that belongs to them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import islice

import numpy as np

from .audio.decode import Sound, decode_sound
from .audio.frame_clock import exact_rate, sample_count
from .face.picture_size import shrunk_frame
from .media_container import open_media
from .types import ProgressCallback
from .video_file import read_video_frames


@dataclass(frozen=True)
class DrivingVideo:
    """A clip in memory.

    frames: (H, W, 3) uint8 RGB each, all of one size.
    fps: frames per second.
    sound: the clip's sound as it is in the file, None when it has none.
    """

    frames: tuple[np.ndarray, ...]
    fps: float
    sound: Sound | None


def read_driving_video(
    path: str | os.PathLike[str],
    start: float = 0.0,
    duration: float | None = None,
    largest_side: int = 0,
    progress: ProgressCallback | None = None,
) -> DrivingVideo:
    """Read a video file, or a part of it.

    start: seconds left out at the beginning. duration: seconds taken, None for all the rest.
    largest_side: frames are shrunk to this many pixels on their longer side, 0 keeps their size.
    Raises OSError for a path that cannot be read; ValueError for a file that is not a video or is damaged, a
    part that holds no frames, or a negative start or a duration that is not positive.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start} s, expected 0 or more")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"the duration is {duration} s, expected more than 0")
    stream = read_video_frames(path)
    rate = exact_rate(stream.fps)
    first = round(start * rate)
    count = None if duration is None else max(1, round(duration * rate))
    total = max(1, min(stream.frame_count - first, count or stream.frame_count))
    frames: list[np.ndarray] = []
    for frame in islice(stream, first, None if count is None else first + count):
        frames.append(shrunk_frame(frame, largest_side))
        if progress is not None:
            progress(len(frames), max(total, len(frames)))
    if not frames:
        raise ValueError(
            f"{path} has no frames after {start:g} s; it lasts about {stream.frame_count / stream.fps:.2f} s"
        )
    return DrivingVideo(tuple(frames), stream.fps, _sound_of_part(path, first, count, stream.fps))


def _sound_of_part(path: str | os.PathLike[str], first: int, count: int | None, fps: float) -> Sound | None:
    with open_media(path) as container:
        if not container.streams.audio:
            return None
    sound = decode_sound(path)
    begin = sample_count(first, fps, sound.sample_rate)
    end = None if count is None else sample_count(first + count, fps, sound.sample_rate)
    part = sound.waveform[:, begin:end]
    return Sound(part, sound.sample_rate) if part.shape[1] else None
