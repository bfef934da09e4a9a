"""Clips for KDTalker out of a folder of videos: the face's motion and what is heard, 25 times a second.

As the release prepares its data: frames at 25 fps, one face crop for the whole clip placed by its first frame (FFHQ's
square, black outside the picture), LivePortrait's motion extractor on every frame, Wav2Lip's features of the sound.
Where the face is missing, or has left the crop, a clip ends; the longest uninterrupted stretch of a video is taken.
What is heard, and how a clip is kept, is a `ClipKind`: Takin-ADA's clips differ from KDTalker's in nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..core_models.audio.decode import decode_sound
from ..core_models.audio.resample import resample, to_mono
from ..core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder, encode_frames
from ..core_models.audio.wav2lip_mel import SAMPLE_RATE, SAMPLES_PER_FRAME, wav2lip_mel
from ..core_models.face.landmarker import FaceLandmarker
from ..core_models.keypoint_diffusion.kdtalker import KDTALKER_FPS
from ..core_models.keypoint_diffusion.motion_vectors import motion_vectors
from ..core_models.motion.keypoint_extraction import batch_size, batched, read_keypoints
from ..core_models.motion.motion_extractor import MotionExtractor
from ..core_models.types import ProgressCallback
from ..core_models.video_file import read_video_frames
from .face_pictures import FacePicture, SeenFrames, face_pictures
from .kdtalker_dataset import CLIP_SUFFIX, Clip, clip_facts, open_clip, write_clip

if TYPE_CHECKING:
    from ..core_models.audio.hubert import Hubert

logger = logging.getLogger(__name__)

REPORT_FILE = "report.jsonl"
EXTRACTED, KEPT, BAD = "extracted", "kept", "bad"
QUIETEST_SOUND = 1e-4
"""Of full scale; a sound that never exceeds it counts as silent."""
_NAMED_BAD_CLIPS = 10


@dataclass(frozen=True)
class ExtractionSettings:
    """What a clip depends on besides its video; a clip of other settings is extracted again.

    face_index: which face of a first frame with several, 0 the largest; None refuses videos with several alike.
    shortest: frames below which a stretch is no use. networks: what tells weights apart, by network.
    """

    face_index: int | None = None
    shortest: int = 66
    networks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shortest < 1:
            raise ValueError(f"shortest is {self.shortest} frames, expected at least 1")
        if self.face_index is not None and self.face_index < 0:
            raise ValueError(f"face_index is {self.face_index}, expected 0 (the largest face) or more")


@dataclass(frozen=True)
class ExtractionNetworks:
    """The networks that extraction runs, wherever they are: finding the face, reading it, hearing."""

    landmarker: FaceLandmarker
    motion_extractor: MotionExtractor
    speech_encoder: Wav2LipSpeechEncoder | Hubert


class Stretch(NamedTuple):
    """Frames in a row that show the face: the first one's number, motion (N, 70) and canonical (N, 63), float32."""

    first: int
    motion: np.ndarray
    canonical: np.ndarray

    @property
    def stop(self) -> int:
        """The number of the frame after the last one."""
        return self.first + len(self.motion)


class ClipKind(Protocol):
    """What clips of one model hold beside motion, and how they are kept. source_entry: of a file's metadata."""

    source_entry: str

    def clip(
        self, name: str, stretch: Stretch, waveform: np.ndarray, tick: Callable[[], None] | None = None
    ) -> Any:
        """Return the clip of a stretch; waveform: (640 n,) at 16 kHz, of the n frames of the whole video."""

    def write(self, path: Path, clip: Any, facts: Mapping[str, str]) -> None:
        """Write a clip as a file that appears when it is whole, with further entries of its metadata."""

    def frames(self, path: Path, name: str) -> int:
        """Return how many frames a clip's file has; raise ValueError for a damaged one or one of another kind."""

    def beside(self, name: str) -> Mapping[str, Any]:
        """Return what a clip depends on beside its video and the settings, ready for JSON."""


@dataclass(frozen=True)
class KDTalkerClips:
    """The kind of KDTalker's clips: Wav2Lip's features are heard."""

    speech_encoder: Wav2LipSpeechEncoder
    source_entry: str = "kdtalker_source"

    def clip(
        self, name: str, stretch: Stretch, waveform: np.ndarray, tick: Callable[[], None] | None = None
    ) -> Clip:
        features = encode_frames(self.speech_encoder, wav2lip_mel(waveform), stretch.stop)
        return Clip(name, stretch.motion, stretch.canonical, features[stretch.first :].numpy())

    def write(self, path: Path, clip: Clip, facts: Mapping[str, str]) -> None:
        write_clip(path, clip, facts)

    def frames(self, path: Path, name: str) -> int:
        return open_clip(path, name).frames

    def beside(self, name: str) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class ClipReport:
    """What became of a video. file: below the folder. status: "extracted", "kept" (it was there already) or "bad".

    reason: why it is bad, or what was left out. frames: of the clip. first_frame: where in the video it begins.
    """

    file: str
    status: str
    reason: str = ""
    frames: int = 0
    first_frame: int = 0


class Extracted(NamedTuple):
    """A clip, the frame of the video it begins at, and how many frames the video has where there is sound."""

    clip: Any
    first_frame: int
    video_frames: int


def video_files(folder: str | os.PathLike[str], without: Path | None = None) -> list[Path]:
    """Return all files below a folder but hidden ones, ordered by name; links to folders are not followed.

    without: a folder that is left out. Raises OSError for a folder that is missing, is none or cannot be read,
    ValueError when it holds no file. A subfolder that cannot be read is named in the log.
    """
    folder = Path(folder)
    os.scandir(folder).close()  # gives the system's own error
    left_out = None if without is None else without.resolve()
    found: list[Path] = []
    for place, subfolders, files in os.walk(folder, onerror=_warn_unreadable):
        subfolders[:] = [
            name for name in subfolders if name[0] != "." and Path(place, name).resolve() != left_out
        ]
        found += [Path(place, name) for name in files if name[0] != "."]
    if not found:
        raise ValueError(f"{folder} holds no files: give the folder that holds the videos")
    return sorted(found)


def _warn_unreadable(error: OSError) -> None:
    logger.warning("%s cannot be read and is left out: %s", error.filename, error.strerror)


def extract_dataset(
    videos: Path,
    target: Path,
    networks: ExtractionNetworks,
    settings: ExtractionSettings | None = None,
    progress: ProgressCallback | None = None,
    kind: ClipKind | None = None,
) -> list[ClipReport]:
    """Extract every video below a folder into a clip of the same name below `target`; return what became of each.

    A clip that is there already, from the same video (its size and time) and settings, is kept. A bad video does not
    stop the run; a clip that an earlier version of it gave is removed. `report.jsonl` gets a line for each video as it
    is done. progress: called with (videos done, total) at least once for each frame; what it raises ends the run, and
    leaves whole clips only. kind: of the clips; None is KDTalker's.
    Raises OSError for folders that cannot be read or written, ValueError when no video gives a clip.
    """
    settings, kind = settings or ExtractionSettings(), kind or KDTalkerClips(networks.speech_encoder)
    if target.resolve() == videos.resolve():
        raise ValueError(
            f"the clips cannot go into {videos}, where the videos are: choose another folder for them"
        )
    files = video_files(videos, without=target)
    target.mkdir(parents=True, exist_ok=True)
    reports: list[ClipReport] = []
    with (target / REPORT_FILE).open("w", encoding="utf-8") as report_file:
        for index, path in enumerate(files):
            tick = None if progress is None else lambda index=index: progress(index, len(files))
            reports.append(_extract_file(path, videos, target, networks, settings, kind, tick))
            report_file.write(json.dumps(asdict(reports[-1])) + "\n")
            report_file.flush()
            if progress is not None:
                progress(index + 1, len(files))
    if all(report.status == BAD for report in reports):
        raise ValueError(
            f"no video of {videos} gave a clip: {_reasons(reports)}; {target / REPORT_FILE} says why for each"
        )
    return reports


def _extract_file(
    path: Path,
    videos: Path,
    target: Path,
    networks: ExtractionNetworks,
    settings: ExtractionSettings,
    kind: ClipKind,
    tick: Callable[[], None] | None,
) -> ClipReport:
    """Bring one video's clip up to date. Only what is wrong with the video is caught, not with the target."""
    name = path.relative_to(videos).as_posix()
    output = target / (name + CLIP_SUFFIX)
    try:
        source = source_facts(path, settings, kind.beside(name))
        kept = _kept(output, name, source, kind)
        if kept is not None:
            return kept
        extracted = extract_clip(path, name, networks, settings, tick, kind)
    except (ValueError, OSError) as error:
        output.unlink(missing_ok=True)
        return ClipReport(name, BAD, " ".join(str(error).split()))
    report = ClipReport(name, EXTRACTED, _left_out(extracted), extracted.clip.frames, extracted.first_frame)
    output.parent.mkdir(parents=True, exist_ok=True)
    facts = {kind.source_entry: source, "reason": report.reason, "first_frame": str(report.first_frame)}
    kind.write(output, extracted.clip, facts)
    return report


def source_facts(path: Path, settings: ExtractionSettings, beside: Mapping[str, Any]) -> str:
    """Return what a clip is made from, as JSON text: the video's size and time of change, the settings, what else."""
    state = path.stat()
    facts = {"bytes": state.st_size, "changed": state.st_mtime_ns, "settings": asdict(settings), **beside}
    return json.dumps(facts, sort_keys=True)


def _kept(output: Path, name: str, source: str, kind: ClipKind) -> ClipReport | None:
    """Return the report of a clip that is there already, None when there is none, a damaged one, or another's."""
    if not output.is_file():
        return None
    try:
        facts = clip_facts(output)
        frames = kind.frames(output, name)
    except ValueError as error:
        logger.warning("%s is extracted again: %s", name, error)
        return None
    if facts.get(kind.source_entry) != source:
        return None
    return ClipReport(name, KEPT, facts.get("reason", ""), frames, int(facts.get("first_frame", "0")))


def _left_out(extracted: Extracted) -> str:
    missing = extracted.video_frames - extracted.clip.frames
    return f"{missing} frames without the face are left out" if missing else ""


def extract_clip(
    path: Path,
    name: str,
    networks: ExtractionNetworks,
    settings: ExtractionSettings | None = None,
    tick: Callable[[], None] | None = None,
    kind: ClipKind | None = None,
) -> Extracted:
    """Return the longest stretch of a video in which the face is seen, with its sound.

    Frames are decoded one at a time and held by the batch. tick: called once for each frame; it may raise to cancel.
    kind: of the clip; None is KDTalker's.
    Raises OSError, and ValueError for a file that is no video, is damaged, has no sound or a silent one, no face or
    several alike, or is too short.
    """
    settings, kind = settings or ExtractionSettings(), kind or KDTalkerClips(networks.speech_encoder)
    waveform = heard_waveform(path)
    heard_frames = len(waveform) // SAMPLES_PER_FRAME
    _require_length(heard_frames, settings, "its sound")
    frames = SeenFrames(islice(read_video_frames(path, KDTALKER_FPS), heard_frames))
    pictures = face_pictures(frames, networks.landmarker, settings.face_index, tick)
    stretch = _longest_stretch(_readings(pictures, networks.motion_extractor), settings)
    clip = kind.clip(name, stretch, waveform[: heard_frames * SAMPLES_PER_FRAME], tick)
    return Extracted(clip, stretch.first, frames.count)


def heard_waveform(path: Path) -> np.ndarray:
    """Return (T,) float32 at 16 kHz, mono: a file's sound. Raises ValueError when there is none or it is silent."""
    waveform = resample(to_mono(decode_sound(path)), SAMPLE_RATE).waveform[0]
    loudest = float(np.abs(waveform).max())
    if loudest < QUIETEST_SOUND:
        raise ValueError(f"{path} is silent: its sound never exceeds {loudest:g} of full scale")
    return waveform


def _require_length(frames: int, settings: ExtractionSettings, what: str) -> None:
    if frames < settings.shortest:
        raise ValueError(
            f"too short: {what} lasts {frames} frames ({frames / KDTALKER_FPS:.2f} s), but {settings.shortest} are "
            "needed"
        )


class _Rows(NamedTuple):
    frames: list[int]
    stretches: list[int]
    motion: list[np.ndarray]
    canonical: list[np.ndarray]


def _readings(pictures: Iterable[FacePicture], extractor: MotionExtractor) -> _Rows:
    rows = _Rows([], [], [], [])
    for batch in batched(pictures, batch_size(extractor)):
        readings = read_keypoints([item.picture for item in batch], extractor)
        rows.frames.extend(item.frame for item in batch)
        rows.stretches.extend(item.stretch for item in batch)
        rows.motion.extend(motion_vectors(readings).astype(np.float32))
        rows.canonical.extend(readings.canonical.reshape(len(batch), -1).astype(np.float32))
    return rows


def _longest_stretch(rows: _Rows, settings: ExtractionSettings) -> Stretch:
    if not rows.frames:
        raise ValueError("no face in any frame: use a video in which a face fills at least 5 % of the width")
    stretches = np.array(rows.stretches)
    inside = np.flatnonzero(stretches == np.bincount(stretches).argmax())
    _require_length(len(inside), settings, "the longest stretch in which the face is seen")
    part = slice(int(inside[0]), int(inside[-1]) + 1)
    return Stretch(rows.frames[part.start], np.stack(rows.motion[part]), np.stack(rows.canonical[part]))


def summary(reports: list[ClipReport]) -> str:
    """Return lines for people to read: how many clips, how long, and which videos are bad and why."""
    counts = {status: sum(r.status == status for r in reports) for status in (EXTRACTED, KEPT, BAD)}
    minutes = math.fsum(report.frames for report in reports) / KDTALKER_FPS / 60
    head = f"{counts[EXTRACTED]} extracted, {counts[KEPT]} kept, {counts[BAD]} bad; {minutes:.1f} minutes of clips"
    bad = [f"bad: {r.file}: {r.reason}" for r in reports if r.status == BAD]
    more = [f"and {len(bad) - _NAMED_BAD_CLIPS} more"] if len(bad) > _NAMED_BAD_CLIPS else []
    return "\n".join([head, *bad[:_NAMED_BAD_CLIPS], *more])


def _reasons(reports: list[ClipReport]) -> str:
    return "; ".join(f"{report.file}: {report.reason}" for report in reports[:2])
