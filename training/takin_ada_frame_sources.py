"""Where Takin-ADA's first stage gets its frames: made heads, whose landmarks and pose are known, or videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, groupby, islice
from pathlib import Path

import cv2
import numpy as np

from ..core_models.audio.decode import Sound
from ..core_models.face.crop import apply_affine, crop_face, invert_affine, square_crop_to_frame
from ..core_models.face.landmarker import FaceLandmarker
from ..core_models.face.pose import fit_head_pose
from ..core_models.types import FaceMotion, ProgressCallback
from ..core_models.video_file import read_video_frames
from .face_pictures import placed_faces
from .kdtalker_extraction import video_files
from .made_heads.clip import MadeClip, made_clip
from .made_heads.identity import made_identity
from .made_heads.performance import SAMPLES_PER_FRAME, MadePerformance, wandering_performance
from .made_heads.portrait import LARGEST_SIZE
from .takin_ada_frames import FrameSet, clip_frames, joined_frames

logger = logging.getLogger(__name__)

MADE_FRAME_STEP = 4
"""Every fourth frame of a made performance is drawn, so that few frames show much."""
MADE_DRAWN_LARGER = 2
"""Made heads are drawn this many times larger than the frames that are cut of them, as far as they can be."""
MADE_CROP_SCALE = 1.3
"""Side of the frames over the face's larger side: tighter than LivePortrait's crop, as few pixels are to show lids."""
VIDEO_FPS = 5.0
"""Frames taken of a second of video."""


def made_drawn_size(size: int) -> int:
    """Return the pixels a side at which made heads are drawn for frames of `size` pixels: at most 256.

    Beyond frames of 128 pixels heads are drawn at 256, and what is cut of them is enlarged.
    """
    return min(LARGEST_SIZE, MADE_DRAWN_LARGER * size)


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

    identities: seeds of `made_identity`, which become the persons' numbers. size: pixels a side; large frames are
    enlarged (`made_drawn_size`). still: heads keep
    their pose and only faces move. The same arguments give the same frames; every person's first clips stay the same
    when there are more. progress: called with (persons done, persons).
    Raises ValueError for no identity, and for fewer than one clip, two frames, or a size that cannot be drawn.
    """
    if not len(identities) or clips < 1 or frames < 2:
        raise ValueError(
            f"there are {len(identities)} identities, {clips} clips and {frames} frames, expected at least 1, 1 and 2"
        )

    def parts() -> Iterator[FrameSet]:
        for done, identity in enumerate(identities):
            for take in range(clips):
                performance = made_movement(frames, [seed, identity, take], still)
                clip = made_clip(made_identity(identity), performance, made_drawn_size(size))
                yield frames_of_made_clip(clip, size, identity * clips + take)
            if progress is not None:
                progress(done + 1, len(identities))

    return joined_frames(parts(), len(identities) * clips * frames)


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

    The square lies around the face's middle, on average over the clip; where it has fewer pixels than the frames, it is
    enlarged by bicubic interpolation. The person is the identity's seed.
    """
    points = clip.landmarks[..., :2].astype(np.float64)
    low, high = points.min(axis=1), points.max(axis=1)
    side = min(MADE_CROP_SCALE * float((high - low).max(axis=1).mean()), clip.size)
    centre = np.clip(((low + high) / 2).mean(axis=0), side / 2 - 0.5, clip.size - side / 2 - 0.5)
    to_frame = square_crop_to_frame(centre, side, 0.0, size)
    pictures = np.stack([_cut(frame, to_frame, side, size) for frame in clip.frames])
    to_crop = invert_affine(to_frame)
    landmarks = np.stack([apply_affine(to_crop, face) for face in clip.landmarks])
    return clip_frames(pictures, landmarks, clip.motion.rotation, clip.identity_seed, number)


def _cut(frame: np.ndarray, to_frame: np.ndarray, side: float, size: int) -> np.ndarray:
    if side >= size:
        return crop_face(frame, to_frame, size)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def video_frames(
    folder: Path,
    landmarker: FaceLandmarker,
    size: int,
    longest: int = 200,
    progress: ProgressCallback | None = None,
) -> FrameSet:
    """Return frames of all videos below a folder; every subfolder that holds videos is a person.

    Videos that stand in the folder itself are a person each. Five frames a second are taken, at most `longest` of a
    video. A clip is a stretch of frames with the face in FFHQ's square of its first: where the face is missing or has
    left the square, another clip begins. What is no video or has no stretch of two frames is named in the log.
    progress: called with (files done, files).
    Raises OSError for a folder that cannot be read, ValueError when no video gives two frames.
    """
    files = video_files(folder)
    owners = [path.parent if path.parent != folder else path for path in files]
    persons = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
    parts: list[FrameSet] = []
    numbers = count()
    for index, (path, owner) in enumerate(zip(files, owners, strict=True)):
        try:
            parts += _clips_of_video(path, landmarker, size, longest, persons[owner], numbers)
        except (ValueError, OSError) as error:
            logger.warning("%s is left out: %s", path, error)
        if progress is not None:
            progress(index + 1, len(files))
    if not parts:
        raise ValueError(f"no video of {folder} gave frames: the log names the reason for each")
    return joined_frames(parts)


def _clips_of_video(
    path: Path, landmarker: FaceLandmarker, size: int, longest: int, person: int, numbers: Iterator[int]
) -> list[FrameSet]:
    """Return a clip of every stretch of two frames and more; each takes the next of the numbers."""
    clips: list[FrameSet] = []
    cropped = islice(_cropped_faces(path, landmarker, size), longest)
    for _, stretch in groupby(cropped, key=lambda face: face[0]):
        _, pictures, landmarks = zip(*stretch, strict=True)
        if len(pictures) > 1:
            rotation = np.stack([fit_head_pose(points).rotation for points in landmarks])
            clips.append(
                clip_frames(np.stack(pictures), np.stack(landmarks), rotation, person, next(numbers))
            )
    if not clips:
        raise ValueError("no two of its frames, one after the other, show a face that stays in its place")
    return clips


def _cropped_faces(
    path: Path, landmarker: FaceLandmarker, size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield numbers of stretches, pictures, and their landmarks in pixels; a stretch is cut alike."""
    for placed in placed_faces(read_video_frames(path, VIDEO_FPS), landmarker):
        to_frame = placed.square.crop_to_frame(size)
        picture = crop_face(placed.picture, to_frame, size, cv2.BORDER_CONSTANT)
        yield placed.stretch, picture, apply_affine(invert_affine(to_frame), placed.face.landmarks)
