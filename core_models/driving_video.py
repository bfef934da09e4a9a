"""A driving video: frames at a constant rate, small enough to keep, with the sound that belongs to them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from .audio.decode import Sound, decode_sound
from .audio.frame_clock import exact_rate, sample_count
from .face.picture_size import shrunk_frame
from .media_container import open_media
from .types import ProgressCallback
from .video_file import VideoStream, read_video_frames


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


@dataclass(frozen=True)
class DrivingFrames:
    """The frames of a video file, or of a part of it. Iterating decodes; each iteration starts anew.

    stream: the whole video. first: which of its frames comes first. count: how many are taken, None all the rest.
    largest_side: frames are shrunk to this many pixels on their longer side, 0 keeps their size.
    Iterating yields (H, W, 3) uint8 RGB, one at a time, and raises ValueError for a damaged file, or a part that holds
    no frames.
    """

    stream: VideoStream
    first: int = 0
    count: int | None = None
    largest_side: int = 0

    @property
    def fps(self) -> float:
        """Frames per second, constant."""
        return self.stream.fps

    @property
    def frame_total(self) -> int:
        """How many frames the file's header promises, at least 1; the iteration decides."""
        rest = self.stream.frame_count - self.first
        return max(1, min(rest, self.count or rest))

    def __iter__(self) -> Iterator[np.ndarray]:
        last = None if self.count is None else self.first + self.count
        found = False
        for frame in islice(self.stream, self.first, last):
            found = True
            yield shrunk_frame(frame, self.largest_side)
        if not found:
            start, lasts = self.first / self.fps, self.stream.frame_count / self.fps
            raise ValueError(
                f"{self.stream.path} has no frames after {start:g} s; it lasts about {lasts:.2f} s"
            )


def driving_frames(
    path: str | os.PathLike[str],
    start: float = 0.0,
    duration: float | None = None,
    largest_side: int = 0,
    fps: float | None = None,
) -> DrivingFrames:
    """Return the frames of a video file, or of a part of it, none of which is held.

    start: seconds left out at the beginning. duration: seconds taken, None for all the rest. largest_side: see
    DrivingFrames. fps: frames per second wanted, None keeps the file's own.
    Raises OSError for a path that cannot be read; ValueError for a file that is not a video, a negative start or a
    duration that is not positive.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start} s, expected 0 or more")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"the duration is {duration} s, expected more than 0")
    stream = read_video_frames(path, fps)
    rate = exact_rate(stream.fps)
    count = None if duration is None else max(1, round(duration * rate))
    return DrivingFrames(stream, round(start * rate), count, largest_side)


def read_driving_video(
    path: str | os.PathLike[str],
    start: float = 0.0,
    duration: float | None = None,
    largest_side: int = 0,
    progress: ProgressCallback | None = None,
) -> DrivingVideo:
    """Read a video file, or a part of it, into memory: see `driving_frames`, which raises as this does.

    progress: called with (frames read, total).
    """
    part = driving_frames(path, start, duration, largest_side)
    frames: list[np.ndarray] = []
    for frame in part:
        frames.append(frame)
        if progress is not None:
            progress(len(frames), max(part.frame_total, len(frames)))
    return DrivingVideo(tuple(frames), part.fps, _sound_of_part(path, part.first, part.count, part.fps))


def _sound_of_part(path: str | os.PathLike[str], first: int, count: int | None, fps: float) -> Sound | None:
    with open_media(path) as container:
        if not container.streams.audio:
            return None
    sound = decode_sound(path)
    begin = sample_count(first, fps, sound.sample_rate)
    end = None if count is None else sample_count(first + count, fps, sound.sample_rate)
    part = sound.waveform[:, begin:end]
    return Sound(part, sound.sample_rate) if part.shape[1] else None
