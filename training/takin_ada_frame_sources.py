"""Where Takin-ADA's first stage gets its frames: made heads, whose landmarks and pose are known, or videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ..core_models.audio.decode import Sound
from ..core_models.face.crop import apply_affine, crop_face, invert_affine, square_crop_to_frame
from ..core_models.face.ffhq_crop import ffhq_square
from ..core_models.face.landmarker import FaceLandmarker
from ..core_models.face.pose import fit_head_pose
from ..core_models.face.tracking import follow_face
from ..core_models.types import FaceMotion, ProgressCallback
from ..core_models.video_file import read_video_frames
from .kdtalker_extraction import video_files
from .made_heads.clip import MadeClip, made_clip
from .made_heads.identity import made_identity
from .made_heads.performance import SAMPLES_PER_FRAME, MadePerformance, wandering_performance
from .takin_ada_frames import FrameSet, clip_frames, joined_frames

logger = logging.getLogger(__name__)

MADE_FRAME_STEP = 4
"""Every fourth frame of a made performance is drawn, so that few frames show much."""
MADE_DRAWN_LARGER = 2
"""Made heads are drawn this many times larger than the frames that are cut of them."""
MADE_CROP_SCALE = 1.3
"""Side of the frames over the face's larger side: tighter than LivePortrait's crop, as few pixels are to show lids."""
VIDEO_FPS = 5.0
"""Frames taken of a second of video."""


def made_frames(
    identities: Sequence[int],
    clips: int,
    frames: int,
    size: int,
    seed: int,
    still: bool = False,
    progress: ProgressCallback | None = None,
) -> FrameSet:
    """Return `clips` clips of `frames` frames each of made heads that move widely at random.

    identities: seeds of `made_identity`, which become the persons' numbers. size: pixels a side. still: heads keep
    their pose and only faces move. The same arguments give the same frames; every person's first clips stay the same
    when there are more. progress: called with (persons done, persons).
    Raises ValueError for no identity, and for fewer than one clip, two frames, or a size that cannot be drawn.
    """
    if not len(identities) or clips < 1 or frames < 2:
        raise ValueError(
            f"there are {len(identities)} identities, {clips} clips and {frames} frames, expected at least 1, 1 and 2"
        )
    parts: list[FrameSet] = []
    for done, identity in enumerate(identities):
        for take in range(clips):
            performance = made_movement(frames, [seed, identity, take], still)
            clip = made_clip(made_identity(identity), performance, MADE_DRAWN_LARGER * size)
            parts.append(frames_of_made_clip(clip, size, identity * clips + take))
        if progress is not None:
            progress(done + 1, len(identities))
    return joined_frames(parts)


def made_movement(frames: int, seed: Sequence[int], still: bool = False) -> MadePerformance:
    """Return every fourth frame of movements at random, drawn from the seed; still: with the head at rest."""
    drawn = int(np.random.default_rng(list(seed)).integers(2**31))
    whole = wandering_performance(frames * MADE_FRAME_STEP, drawn)
    motion, kept = whole.motion, slice(None, None, MADE_FRAME_STEP)
    rest = FaceMotion.at_rest(frames, motion.fps)
    head = rest if still else motion
    thinned = replace(
        rest,
        expression=motion.expression[kept],
        rotation=head.rotation if still else head.rotation[kept],
        translation=head.translation if still else head.translation[kept],
        scale=head.scale if still else head.scale[kept],
    )
    sound = Sound(whole.sound.waveform[:, : frames * SAMPLES_PER_FRAME], whole.sound.sample_rate)
    return MadePerformance(sound, thinned, whole.emotion)


def frames_of_made_clip(clip: MadeClip, size: int, number: int) -> FrameSet:
    """Return the frames of a made clip, cut around the face alike in all; the pose is the known one.

    The square lies around the face's middle, on average over the clip. The person is the identity's seed.
    """
    points = clip.landmarks[..., :2].astype(np.float64)
    low, high = points.min(axis=1), points.max(axis=1)
    side = min(MADE_CROP_SCALE * float((high - low).max(axis=1).mean()), clip.size)
    centre = np.clip(((low + high) / 2).mean(axis=0), side / 2 - 0.5, clip.size - side / 2 - 0.5)
    to_frame = square_crop_to_frame(centre, side, 0.0, size)
    pictures = np.stack([crop_face(frame, to_frame, size) for frame in clip.frames])
    to_crop = invert_affine(to_frame)
    landmarks = np.stack([apply_affine(to_crop, face) for face in clip.landmarks])
    return clip_frames(pictures, landmarks, clip.motion.rotation, clip.identity_seed, number)


def video_frames(
    folder: Path,
    landmarker: FaceLandmarker,
    size: int,
    longest: int = 200,
    progress: ProgressCallback | None = None,
) -> FrameSet:
    """Return frames of all videos below a folder: a clip of each, and a person of each subfolder that holds videos.

    Videos that stand in the folder itself are a person each. Five frames a second are taken, at most `longest` of a
    video, with a face in FFHQ's square of the first. What is no video or shows no face is named in the log.
    progress: called with (files done, files).
    Raises OSError for a folder that cannot be read, ValueError when no video gives two frames.
    """
    files = video_files(folder)
    owners = [path.parent if path.parent != folder else path for path in files]
    persons = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
    parts: list[FrameSet] = []
    for index, (path, owner) in enumerate(zip(files, owners, strict=True)):
        try:
            parts.append(_frames_of_video(path, landmarker, size, longest, persons[owner], index))
        except (ValueError, OSError) as error:
            logger.warning("%s is left out: %s", path, error)
        if progress is not None:
            progress(index + 1, len(files))
    if not parts:
        raise ValueError(f"no video of {folder} gave frames: the log names the reason for each")
    return joined_frames(parts)


def _frames_of_video(
    path: Path, landmarker: FaceLandmarker, size: int, longest: int, person: int, number: int
) -> FrameSet:
    pictures, landmarks = [], []
    for picture, points in islice(_cropped_faces(path, landmarker, size), longest):
        pictures.append(picture)
        landmarks.append(points)
    if len(pictures) < 2:
        raise ValueError(f"a face is seen in {len(pictures)} of its frames, but two are needed")
    rotation = np.stack([fit_head_pose(points).rotation for points in landmarks])
    return clip_frames(np.stack(pictures), np.stack(landmarks), rotation, person, number)


def _cropped_faces(
    path: Path, landmarker: FaceLandmarker, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures and their landmarks in pixels; the first face places one crop for the whole video."""
    crop_to_frame: np.ndarray | None = None
    last: list[np.ndarray] = []

    def seen() -> Iterator[np.ndarray]:
        for frame in read_video_frames(path, VIDEO_FPS):
            last[:] = [frame]
            yield frame

    for face in follow_face(seen(), landmarker, None):
        if face is None:
            continue
        if crop_to_frame is None:
            crop_to_frame = ffhq_square(face.landmarks).crop_to_frame(size)
        picture = crop_face(last[0], crop_to_frame, size, cv2.BORDER_CONSTANT)
        yield picture, apply_affine(invert_affine(crop_to_frame), face.landmarks)
