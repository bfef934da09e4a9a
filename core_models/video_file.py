"""Video files in and out, one frame at a time.

Reading gives a constant rate whatever the file has. Writing gives an mp4 (H.264, AAC) whose frame count, rate
and sound length agree exactly, and which appears under its name only when it is whole.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from .audio.decode import Sound
from .audio.frame_clock import exact_rate, frame_count, sample_count
from .audio.resample import resample, to_mono, with_length
from .media_container import expect_decoder, is_cover_picture, open_media, stream_kinds
from .types import ProgressCallback
from .whole_file import renamed_when_whole

logger = logging.getLogger(__name__)

DEFAULT_CRF = 18
"""x264's constant rate factor: 0 is lossless, 18 visually so, 51 the worst."""
DEFAULT_PRESET = "veryfast"
"""Measured on 2 busy cores: 280 frames/s at 512x512, 80 at 1024x1024; files a third of what superfast makes."""

AAC_SAMPLE_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
AAC_BLOCK = 1024
AAC_BIT_RATE_PER_CHANNEL = 96_000

YUV_STANDARDS = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}
"""H.273's matrix numbers, as a video states them."""
HD_HEIGHT = 720
"""Videos that state no matrix are taken for BT.709 from this height on, as players do."""

HIGHEST_RATE = 240
"""Frames per second above which a file's stated rate is taken for a time base and not believed."""
TIMESTAMP_SLACK = Fraction(1, 10)
"""Frames by which a duration may exceed whole frames: timestamps are often rounded to milliseconds."""
HEADER_SLACK = 0.02
"""Share of its duration that a file may lack before it counts as cut off: some headers are not exact."""
RATES_FOR_VARIABLE = (10, 12, 15, 20, 24, 25, 30, 50, 60, 120)
"""A file of variable rate is read at the lowest of these that is not below its average."""


@dataclass(frozen=True)
class VideoStream:
    """The frames of a video file at a constant rate. Iterating decodes; each iteration starts anew.

    fps: frames per second of what iterating yields.
    size: (width, height) in pixels, upright.
    frame_count: how many frames the file's header promises; the iteration decides.
    Iterating yields (H, W, 3) uint8 RGB arrays and raises ValueError for a damaged or cut-off file.
    """

    path: Path
    fps: float
    size: tuple[int, int]
    frame_count: int

    def __iter__(self) -> Iterator[np.ndarray]:
        return _constant_rate_frames(self.path, exact_rate(self.fps))


def read_video_frames(path: str | os.PathLike[str], fps: float | None = None) -> VideoStream:
    """Return the picture of a video file as a constant-rate stream.

    fps: the rate wanted; None keeps the file's own. Files of variable rate, and all files when another rate
    is asked for, are resampled through the frame clock: frame i is the one whose presentation time is nearest
    to i / fps. A rotation stored by a phone is applied.
    Raises ValueError for a file that is not a video or has no frames, OSError for a path that cannot be read.
    """
    with open_media(path) as container:
        stream = _picture_stream(container, Path(path))
        rate = exact_rate(fps) if fps is not None else _own_rate(stream)
        first = next(_decoded(container, stream, Path(path)), None)
        if first is None:
            raise ValueError(f"{path} has a video stream without frames")
        width, height = first.width, first.height
        if _quarter_turns(first) % 2:
            width, height = height, width
        return VideoStream(
            Path(path), float(rate), (width, height), _promised_frames(container, stream, rate)
        )


def _picture_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    streams = [stream for stream in container.streams.video if not is_cover_picture(stream)]
    if not streams:
        raise ValueError(f"{path} is not a video: its streams are {stream_kinds(container)}")
    expect_decoder(streams[0], path)
    streams[0].thread_type = "AUTO"
    return streams[0]


def _own_rate(stream: av.VideoStream) -> Fraction:
    """Return the file's rate, or for variable rate a usual one that loses few frames."""
    rates = (stream.average_rate, stream.guessed_rate)
    believable = [rate for rate in rates if rate is not None and 1 <= rate <= HIGHEST_RATE]
    if not believable:
        return Fraction(25)
    average = believable[0]
    if stream.base_rate is not None and abs(stream.base_rate - average) > average / 100:
        return _rate_of_variable(average)
    return exact_rate(float(average))


def _rate_of_variable(average: Fraction) -> Fraction:
    enough = [rate for rate in RATES_FOR_VARIABLE if rate >= average * Fraction(99, 100)]
    return Fraction(min(enough, default=HIGHEST_RATE))


def _promised_frames(container: av.container.InputContainer, stream: av.VideoStream, rate: Fraction) -> int:
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    else:
        seconds = float((stream.frames or 1) / (stream.average_rate or rate))
    return max(1, round(seconds * rate))


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> Iterator[av.VideoFrame]:
    """Yield decoded frames; raise ValueError where the file is damaged or ends too early."""
    end = 0.0
    try:
        for frame in container.decode(stream):
            if frame.time is not None:
                end = frame.time + float(_shown_for(frame))
            yield frame
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} is damaged or cut off after {end:.2f} s ({error.strerror}); use another copy"
        ) from error
    _expect_whole(container, stream, end, path)


def _expect_whole(
    container: av.container.InputContainer, stream: av.VideoStream, end: float, path: Path
) -> None:
    """Most formats end silently when cut off: compare with the duration in the header."""
    if stream.duration:
        promised = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        promised = container.duration / av.time_base
    else:
        return
    two_frames = 2 / float(stream.average_rate or 25)
    if end + max(two_frames, promised * HEADER_SLACK) < promised:
        raise ValueError(
            f"{path} is cut off: its header promises {promised:.2f} s of video, but it ends after "
            f"{end:.2f} s; use another copy"
        )


def _constant_rate_frames(path: Path, rate: Fraction) -> Iterator[np.ndarray]:
    with open_media(path) as container:
        stream = _picture_stream(container, path)
        reformatter = VideoReformatter()
        shown: tuple[av.VideoFrame, np.ndarray] | None = None
        usual_length = 1 / (stream.average_rate or rate)
        for frame in _nearest_in_time(_timed(_decoded(container, stream, path), usual_length), rate):
            if shown is None or shown[0] is not frame:
                shown = frame, _upright_rgb(frame, reformatter)
            yield shown[1]


def _timed(
    frames: Iterable[av.VideoFrame], usual_length: Fraction
) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """Yield (start, end, frame), seconds from the first frame's start; starts increase."""
    first: Fraction | None = None
    previous = Fraction(-1)
    for frame in frames:
        if frame.pts is None or frame.time_base is None:
            start = max(previous, -usual_length) + usual_length
        else:
            stamp = frame.pts * frame.time_base
            first = stamp if first is None else first
            start = stamp - first
        if start <= previous:
            continue
        previous = start
        yield start, start + (_shown_for(frame) or usual_length), frame


def _shown_for(frame: av.VideoFrame) -> Fraction:
    """Return the frame's own duration in seconds, 0 where it is not known (always before PyAV 15)."""
    return Fraction(getattr(frame, "duration", 0) or 0) * (frame.time_base or 0)


def _nearest_in_time(
    timed: Iterable[tuple[Fraction, Fraction, av.VideoFrame]], rate: Fraction
) -> Iterator[av.VideoFrame]:
    """Yield for each i the frame that starts nearest to i / rate, up to the end of the last one."""
    index = 0
    held: tuple[Fraction, Fraction, av.VideoFrame] | None = None
    for start, end, frame in timed:
        if held is not None:
            while index / rate <= (held[0] + start) / 2:
                yield held[2]
                index += 1
        held = start, end, frame
    if held is None:
        return
    count = max(1, math.ceil(held[1] * rate - TIMESTAMP_SLACK))
    for _ in range(index, count):
        yield held[2]


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return how many quarter turns anticlockwise bring the frame upright."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _upright_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    standard = YUV_STANDARDS.get(int(frame.colorspace))
    if standard is None:
        standard = "ITU709" if frame.height >= HD_HEIGHT else "ITU601"
    # PyAV before 17 leaves the matrix out unless the two differ; for RGB the second has no other effect.
    rgb = reformatter.reformat(
        frame, format="rgb24", src_colorspace=standard, dst_colorspace="DEFAULT"
    ).to_ndarray()
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float,
    sound: Sound | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: ProgressCallback | None = None,
    frame_total: int | None = None,
    crf: int = DEFAULT_CRF,
    preset: str = DEFAULT_PRESET,
) -> int:
    """Write an mp4 (H.264 yuv420p in BT.709, AAC) and return N, its number of frames.

    frames: (H, W, 3) uint8 RGB, all of one size, pulled one at a time; odd sizes grow by one repeated edge
    row or column, as H.264 needs even ones.
    fps: the file's rate is exactly frame_clock.exact_rate(fps).
    sound: ends with the picture: silence is appended, or the rest left out and logged, so that it lasts
    exactly sample_count(N, fps, rate) samples. Its rate stays where AAC knows it, else the next higher one is
    used; channel counts AAC does not know are mixed to one.
    metadata: text tags; ComfyUI restores a graph from `workflow` and `prompt` (JSON text).
    progress: called with (frames done, total) after each frame; frame_total is the total where it is known.
    crf: 0 (lossless) to 51. preset: x264's, "ultrafast" to "veryslow".

    The file is written beside the target under a temporary name and renamed when whole, replacing a file of
    that name; after an error, or whatever `progress` or `frames` raises, nothing is left.
    Raises OSError before any work where the folder is missing or cannot be written to, ValueError for bad
    arguments, no frames, or a frame of another shape, size or dtype.

    AAC works in blocks of 1024 samples and with 1024 samples of priming. The edit list in the file says which
    of them count: its time scale is set to the sample rate, because the usual milliseconds are too coarse.
    The audio stream's duration is then exact; decoders that ignore the end of the edit list (ffmpeg's among
    them) give up to 1023 samples of silence more, which `decode_sound` leaves out.
    """
    target = _checked_target(Path(path))
    _check_settings(fps, crf, metadata or {})
    track = _encodable(sound) if sound is not None else None
    total = frame_total or _known_length(frames)
    with renamed_when_whole(target) as unfinished:
        options = {"movflags": "use_metadata_tags+faststart"}
        if track is not None:
            options["movie_timescale"] = str(track.sample_rate)
        with av.open(str(unfinished), "w", format="mp4", options=options) as container:
            container.metadata.update(metadata or {})
            encoder = VideoEncoder(container, exact_rate(fps), track, {"crf": str(crf), "preset": preset})
            for frame in frames:
                encoder.add(frame)
                if progress is not None:
                    progress(encoder.count, max(total, encoder.count))
            encoder.finish()
    return encoder.count


def _checked_target(path: Path) -> Path:
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"videos are written as mp4, but the name is {path.name!r}: end it in .mp4")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the name of a video file")
    return path


def _check_settings(fps: float, crf: int, metadata: Mapping[str, str]) -> None:
    frame_count(0, fps)  # raises for a rate that is not positive
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is {crf}, expected 0 (lossless) to 51")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"metadata {key!r} is a {type(value).__name__}, expected text (json.dumps it)")


def _known_length(frames: Iterable[np.ndarray]) -> int:
    return len(frames) if hasattr(frames, "__len__") else 0


def _encodable(sound: Sound) -> Sound:
    """Return the sound at a rate and with a channel count that AAC knows."""
    if sound.channel_count not in AAC_LAYOUTS:
        logger.warning("%d channels do not fit into AAC: mixed to one", sound.channel_count)
        sound = to_mono(sound)
    higher = [rate for rate in AAC_SAMPLE_RATES if rate >= sound.sample_rate]
    return resample(sound, min(higher, default=AAC_SAMPLE_RATES[-1]))


class VideoEncoder:
    """Encodes frames as they come, each with the sound that belongs to it."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        rate: Fraction,
        sound: Sound | None,
        options: dict[str, str],
    ) -> None:
        self.count = 0
        self._container, self._rate, self._sound, self._options = container, rate, sound, options
        self._size: tuple[int, int] | None = None
        self._samples_done = 0
        self._reformatter = VideoReformatter()

    def add(self, frame: np.ndarray) -> None:
        _check_frame(frame, self.count, self._size)
        if self._size is None:
            self._size = frame.shape[:2]
            self._open_streams()
        picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
        picture = self._reformatter.reformat(picture, format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = self.count, 1 / self._rate
        self._container.mux(self._video.encode(picture))
        self.count += 1
        if self._sound is not None:
            ready = min(self._sound_end(), self._sound.sample_count)
            while ready - self._samples_done >= AAC_BLOCK:
                self._add_sound(self._samples_done + AAC_BLOCK)

    def finish(self) -> None:
        if self._size is None:
            raise ValueError("there are no frames to write")
        if self._sound is not None:
            self._finish_sound()
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._container.mux(self._audio.encode(None))

    def _open_streams(self) -> None:
        height, width = self._size
        self._video = self._container.add_stream("libx264", rate=self._rate, options=self._options)
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        codec = self._video.codec_context
        codec.time_base = 1 / self._rate
        codec.color_primaries = codec.color_trc = codec.colorspace = 1  # BT.709, as the conversion above
        codec.color_range = 1  # 16..235
        if self._sound is not None:
            channels = self._sound.channel_count
            self._audio = self._container.add_stream(
                "aac", rate=self._sound.sample_rate, layout=AAC_LAYOUTS[channels]
            )
            self._audio.bit_rate = AAC_BIT_RATE_PER_CHANNEL * channels

    def _sound_end(self) -> int:
        return sample_count(self.count, float(self._rate), self._sound.sample_rate)

    def _finish_sound(self) -> None:
        end = self._sound_end()
        rest = self._sound.sample_count - end
        if rest * self._rate > self._sound.sample_rate:
            seconds = rest / self._sound.sample_rate
            logger.warning("the sound is %.2f s longer than the picture; its end is left out", seconds)
        while self._samples_done < end:
            self._add_sound(min(end, self._samples_done + AAC_BLOCK))

    def _add_sound(self, end: int) -> None:
        """Encode the samples up to `end`, at most one block; silence after the sound's end."""
        block = with_length(self._sound.waveform[:, self._samples_done : end], end - self._samples_done)
        packed = np.ascontiguousarray(block.T).reshape(1, -1)
        layout = AAC_LAYOUTS[self._sound.channel_count]
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = self._sound.sample_rate
        frame.pts, frame.time_base = self._samples_done, Fraction(1, self._sound.sample_rate)
        self._container.mux(self._audio.encode(frame))
        self._samples_done = end


def _check_frame(frame: np.ndarray, index: int, size: tuple[int, int] | None) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape or frame.dtype != np.uint8:
        raise ValueError(
            f"frame {index} is {frame.dtype} of shape {frame.shape}, expected uint8 (height, width, 3)"
        )
    if size is not None and frame.shape[:2] != size:
        raise ValueError(
            f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, but the video is {size[1]}x{size[0]}"
        )


def _even(frame: np.ndarray) -> np.ndarray:
    """Return the frame with an odd height or width made even by repeating its last row or column."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
