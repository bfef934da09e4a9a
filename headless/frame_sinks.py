"""Where live frames go: an mp4 with its sound, or raw frames into a pipe."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import numpy as np

from ..core_models.audio.frame_clock import exact_rate
from ..core_models.video_file import AAC_LAYOUTS, AAC_SAMPLE_RATES, DEFAULT_CRF, DEFAULT_PRESET, VideoEncoder
from ..core_models.whole_file import renamed_when_whole

RAW_FORMATS = ("rgb24", "bgr24")


class ReaderGoneError(Exception):
    """Nobody reads the raw frames any more."""


class FrameSink(Protocol):
    """Takes frames and the sound that belongs to them.

    channels: of the sound it takes, 0 for none. may_block: whether taking a frame may wait for somebody else.
    """

    channels: int
    may_block: bool

    def frame(self, frame: np.ndarray) -> None:
        """Take the next frame, (H, W, 3) uint8 RGB."""

    def sound(self, waveform: np.ndarray) -> None:
        """Take the next samples, (C, n) float32."""

    def close(self) -> None:
        """Finish what was taken."""

    def abandon(self) -> None:
        """Leave nothing behind that is not finished."""


def sound_rate_for_file(sample_rate: int) -> int:
    """Return the rate that sound of a rate has in an mp4: the same where AAC knows it, else the next higher one."""
    return min((rate for rate in AAC_SAMPLE_RATES if rate >= sample_rate), default=AAC_SAMPLE_RATES[-1])


class GrowingSound:
    """Sound that is still coming in, as the video encoder reads it: forwards, each sample once."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channel_count = sample_rate, channels
        self.sample_count = 0
        self._kept = np.zeros((channels, 0), np.float32)

    def append(self, waveform: np.ndarray) -> None:
        self._kept = np.concatenate([self._kept, waveform], axis=1)
        self.sample_count += waveform.shape[1]

    @property
    def waveform(self) -> GrowingSound:
        return self

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        first, stop = key[1].start, key[1].stop
        self._kept = self._kept[:, max(0, first - self.sample_count + self._kept.shape[1]) :]
        begin = self.sample_count - self._kept.shape[1]
        return self._kept[:, max(0, first - begin) : max(0, stop - begin)]


class VideoFile:
    """An mp4 (H.264, AAC) written as frames and sound come; it has its name only when it is closed whole.

    The sound is cut or filled up with silence to the length of the frames. Unlike `write_video`'s files its index lies
    at the end, so that closing a long one takes no time.
    """

    may_block = False

    def __init__(self, target: Path, fps: float, sample_rate: int, channels: int) -> None:
        """Begin a file. sample_rate, channels: of the sound; a count that AAC does not know is taken as one channel.

        Raises OSError when the folder is missing or cannot be written to. Nothing is left after an error.
        """
        self.channels = channels if channels in AAC_LAYOUTS else 1
        self._sound = GrowingSound(sample_rate, self.channels)
        options = {"movie_timescale": str(sample_rate)}
        settings = {"crf": str(DEFAULT_CRF), "preset": DEFAULT_PRESET, "tune": "zerolatency"}
        with ExitStack() as stack:
            unfinished = stack.enter_context(renamed_when_whole(target))
            container = stack.enter_context(av.open(str(unfinished), "w", format="mp4", options=options))
            self._encoder = VideoEncoder(container, exact_rate(fps), self._sound, settings)
            self._stack = stack.pop_all()

    def frame(self, frame: np.ndarray) -> None:
        """See `FrameSink`."""
        self._encoder.add(frame)

    def sound(self, waveform: np.ndarray) -> None:
        """See `FrameSink`."""
        self._sound.append(waveform)

    def close(self) -> None:
        """See `FrameSink`. Without any frames nothing is left."""
        if self._encoder.count == 0:
            return self.abandon()
        with self._stack:
            self._encoder.finish()

    def abandon(self) -> None:
        """See `FrameSink`."""
        try:
            with self._stack:
                raise _AbandonedError
        except _AbandonedError:
            return


class _AbandonedError(Exception):
    """Ends an unfinished file."""


class RawFrames:
    """Frames as bytes, rows from the top, one after the other, without a header. The sound is left out."""

    channels = 0
    may_block = True

    def __init__(self, stream: BinaryIO, pixel_format: str = "rgb24") -> None:
        if pixel_format not in RAW_FORMATS:
            raise ValueError(f"raw frames are {' or '.join(RAW_FORMATS)}, not {pixel_format!r}")
        self._stream, self._swap = stream, pixel_format == "bgr24"

    def frame(self, frame: np.ndarray) -> None:
        """See `FrameSink`. Raises ReaderGoneError when nobody reads any more."""
        try:
            self._stream.write(np.ascontiguousarray(frame[..., ::-1] if self._swap else frame).tobytes())
            self._stream.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError("nobody reads the frames any more") from error

    def sound(self, waveform: np.ndarray) -> None:
        """Leave it out."""

    def close(self) -> None:
        """Nothing to finish."""

    def abandon(self) -> None:
        """Nothing to take back."""
