"""`talking-portrait live`: sound in as a stream, video frames out as they are made."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .live_run import Interruption, LiveReport, LiveRun, Teller, let_go

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.motion_stream import MotionStream
    from ..core_models.rendering.mesh import MeshRenderer
    from ..core_models.types import Emotion, Portrait
    from .frame_sinks import FrameSink
    from .sound_sources import SoundPiece

EXIT_OK, EXIT_INTERRUPTED = 0, 130
WARM_UP_SECONDS = 0.1
"""Silence that is made a picture of before the sound: what is loaded on first use must not make a frame late."""
MODEL_HELP = (
    "what turns sound into motion: pocket (the default), or the .safetensors file of a streaming Takin-ADA model "
    "over blendshapes ('talking-portrait train takin-ada speech --made')"
)


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--speech", metavar="S", help="sound or video file, - for standard input (default: a clip)"
    )
    source.add_argument("--microphone", metavar="NAME", nargs="?", const="", help="listen to a microphone")
    parser.add_argument("--rate", type=int, help="Hz of raw samples on standard input (16 bit little-endian)")
    parser.add_argument("--channels", type=int, help="of raw samples (default 1)")
    parser.add_argument("--paced", action="store_true", help="play a file no faster than it sounds")
    parser.add_argument(
        "--stall-seconds", type=float, default=5.0, help="end when no sound came for so long (default 5)"
    )
    parser.add_argument(
        "--portrait", metavar="P", help="picture file (default: a public-domain NASA portrait)"
    )
    parser.add_argument(
        "--size", type=int, default=0, help="longest side of the video in pixels (default: as is)"
    )
    parser.add_argument("--model", metavar="M", default="pocket", help=MODEL_HELP)
    parser.add_argument(
        "--emotion", metavar="E[:strength]", default="neutral", help="such as happy or sad:0.5"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number gives another performance")
    parser.add_argument(
        "--look-ahead", type=int, help="frames of sound to wait for (pocket: 4 to 25, default 12)"
    )
    parser.add_argument(
        "--out", metavar="X.mp4", default="live.mp4", help="- for raw frames on standard output"
    )
    parser.add_argument("--format", choices=("rgb24", "bgr24"), help="of raw frames (default rgb24)")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(command=live_command)


def live_command(arguments: argparse.Namespace) -> int:
    """Run until the sound ends and report; return 0, or 130 after Ctrl-C.

    After Ctrl-C the frames made so far are kept: the file is closed properly under its name. A second one leaves none.
    What a source raises after some sound is raised when the frames made so far are kept and reported. A reader of
    frames or of text that goes away is no error.
    """
    from ..core_models.rendering.mesh import MeshRenderer
    from ..runtime.motion_streams import motion_stream
    from .demo import checked_target
    from .sound_sources import ReadAhead

    require_fitting(arguments)
    raw = arguments.out == "-"
    target = None if raw else checked_target(Path(arguments.out))
    chosen = arguments.model, parsed_emotion(arguments.emotion), arguments.seed, arguments.look_ahead
    stream, warm_up = motion_stream(*chosen), motion_stream(*chosen)
    renderer = MeshRenderer(read_portrait(arguments.portrait, arguments.size))
    width, height = _warmed_up(warm_up, renderer)
    pixel_format = arguments.format or "rgb24"
    interruption = Interruption()
    run = LiveRun(stream, renderer, interruption, Teller())
    with (
        ReadAhead(sound_pieces(arguments), arguments.stall_seconds, lambda: interruption.asked) as source,
        interruption.listening(),
    ):
        if raw:
            _say(f"{width}x{height} {pixel_format} at {stream.fps:g} fps", sys.stderr)
        report = run.through(source, lambda piece: _sink(piece, stream, target, pixel_format))
    if report.ended == "reader gone":
        let_go(sys.stdout)
    if source.stalled:
        _say(f"no sound came for {source.stall_seconds:g} s: finished with what there was", sys.stderr)
    if target is not None and report.frames:
        _say(str(target), sys.stderr)
    text = json.dumps(asdict(report)) if arguments.json else _described(report)
    _say(text, sys.stderr if raw else sys.stdout)
    if run.source_error is not None:
        raise run.source_error
    return EXIT_INTERRUPTED if report.ended == "interrupt" else EXIT_OK


def _warmed_up(stream: MotionStream, renderer: MeshRenderer) -> tuple[int, int]:
    """Return width and height of the frames of a stream that is of no other use."""
    import numpy as np

    silence = np.zeros(round(WARM_UP_SECONDS * stream.sample_rate), np.float32)
    motions = [stream.push(silence), stream.finish()]
    frames = [frame for motion in motions if motion is not None for frame in renderer.frames(motion)]
    height, width = frames[-1].shape[:2]
    return width, height


def _say(line: str, stream: TextIO) -> None:
    """Write a line. A reader that has gone away has seen enough."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except BrokenPipeError:
        let_go(stream)


def require_fitting(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that do nothing with the others, or are out of range."""
    piped = arguments.microphone is None and arguments.speech == "-"
    for option in ("rate", "channels"):
        value = getattr(arguments, option)
        if value is not None and not piped:
            raise ValueError(f"--{option} is of raw samples on standard input: it needs --speech -")
        if value is not None and value < 1:
            raise ValueError(f"--{option} is {value}, expected at least 1")
    if arguments.channels is not None and arguments.rate is None:
        raise ValueError("--channels is of raw samples: say their --rate too, or leave it out for a WAV")
    if arguments.paced and (piped or arguments.microphone is not None):
        raise ValueError("--paced is for sound files: a pipe and a microphone come at a pace of their own")
    if arguments.format is not None and arguments.out != "-":
        raise ValueError(f"--format {arguments.format} is of raw frames: it needs --out -")


def sound_pieces(arguments: argparse.Namespace) -> Iterator[SoundPiece]:
    """Return the pieces of the source that the arguments name."""
    from ..runtime.input_files import DEMO_SPEECH_FILE
    from . import sound_sources as sources

    if arguments.microphone is not None:
        return sources.microphone_pieces(arguments.microphone or None)
    if arguments.speech == "-":
        return sources.pipe_pieces(sources.standard_input, arguments.rate, arguments.channels)
    path = Path(arguments.speech or DEMO_SPEECH_FILE).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--speech: there is no file {path}")
    pieces = sources.file_pieces(path)
    return sources.paced(pieces) if arguments.paced else pieces


def parsed_emotion(text: str) -> Emotion:
    """Return the emotion of "name" or "name:strength". Raises ValueError for a bad name or strength."""
    from ..core_models.types import Emotion

    name, _, strength = text.partition(":")
    try:
        value = float(strength or 1)
    except ValueError as error:
        raise ValueError(
            f"--emotion {text!r}: {strength!r} is not a number; write happy or happy:0.5"
        ) from error
    if not 0 <= value <= 2:
        raise ValueError(f"--emotion {text!r}: the strength is {value:g}, expected 0 to 2")
    return Emotion.mixed({name: 1.0}, value)


def read_portrait(name: str | None, largest_side: int) -> Portrait:
    """Return the portrait of a picture file, of the demo without one, at most `largest_side` px unless that is 0.

    The landmarks are read from the file beside it, or found by the face detector.
    """
    from ..core_models.face.landmarks import read_landmarks
    from ..core_models.face.picture import load_picture
    from ..core_models.face.picture_size import fit_portrait
    from ..core_models.face.portrait import portrait_from_frame, portrait_from_landmarks
    from ..runtime.input_files import demo_portrait, landmarks_beside
    from ..runtime.weights import find_weight

    if name is None:
        frame, landmarks = demo_portrait()
    else:
        frame, landmarks = load_picture(Path(name).expanduser()), landmarks_beside(Path(name).expanduser())
    if landmarks is not None:
        face = read_landmarks(landmarks)
        return fit_portrait(portrait_from_landmarks(frame, face.landmarks, face.blendshapes), largest_side)
    from ..core_models.face.landmarker import FaceLandmarker

    return fit_portrait(
        portrait_from_frame(frame, FaceLandmarker(find_weight("face_landmarker"))), largest_side
    )


def _sink(piece: SoundPiece, stream: MotionStream, target: Path | None, pixel_format: str) -> FrameSink:
    from .frame_sinks import RawFrames, VideoFile, sound_rate_for_file

    if target is None:
        return RawFrames(sys.stdout.buffer, pixel_format)
    return VideoFile(target, stream.fps, sound_rate_for_file(piece.sample_rate), len(piece.waveform))


def _described(report: LiveReport) -> str:
    return (
        f"{report.frames} frames of {report.width}x{report.height}, {report.seconds:.2f} s ({report.ended})\n"
        f"first frame: after {report.sound_for_first_frame:.2f} s of sound and "
        f"{report.compute_to_first_frame:.3f} s of compute\n"
        f"{report.frames_per_second:.1f} frames a second of compute, "
        f"{report.real_time_factor:.3f} s of compute a second of video"
    )
