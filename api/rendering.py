"""Frames, one at a time, of what was sampled, and the video file they make with their sound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core_models.audio.decode import Sound
from ..core_models.audio.frame_clock import frame_count, sample_count
from ..core_models.audio.resample import with_length
from ..core_models.types import (
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    Portrait,
    PortraitVideo,
    ProgressCallback,
    RendererModels,
)
from ..core_models.video_file import DEFAULT_CRF, DEFAULT_PRESET, write_video
from ..core_models.video_types import ACTalkerModels
from ..runtime import actalker_clips, fantasytalking_latents
from ..runtime.liveportrait_motion import motion_for_renderer
from ..runtime.rendering import motion_and_sound, opened_renderer, previewed_frames
from .video_sampling import SampledVideo
from .work import cancellable, progress_of

DECODED_OVERLAP = 2
"""Frames that the chunks share in which ACTalker's clips are decoded, as in its node."""


@dataclass(frozen=True)
class DrawingSettings:
    """How motion is drawn.

    expression_strength: factor for mouth, brows and cheeks. head_strength: for the head's movement, 0 holds it still.
    interpolation: the mesh renderer's, "cubic" or "linear". paste_back: LivePortrait's: the whole picture, or the face
    crops, 512 x 512.
    """

    expression_strength: float = 1.0
    head_strength: float = 1.0
    interpolation: str = "cubic"
    paste_back: bool = True


@dataclass(frozen=True)
class Rendering:
    """Frames that are drawn as they are asked for. Iterating draws; each iteration starts anew.

    fps: frames per second. frame_count: how many there are. sound: exactly as long as the frames, None when none was
    given. Iterating yields (H, W, 3) uint8 RGB arrays.
    """

    fps: float
    frame_count: int
    sound: Sound | None = field(repr=False)
    _made: Iterable[np.ndarray] = field(repr=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        with cancellable():
            yield from self._made

    def __len__(self) -> int:
        return self.frame_count


@dataclass(frozen=True)
class _DrawnMotion:
    """Motion drawn onto a portrait, frame by frame; networks are held while one iterates."""

    motion: FaceMotion
    portrait: Portrait | PortraitVideo
    renderer: RendererModels | None
    settings: DrawingSettings
    progress: ProgressCallback | None

    def __iter__(self) -> Iterator[np.ndarray]:
        shown = progress_of(self.progress, self.motion.frame_count)
        with opened_renderer(
            self.portrait,
            self.renderer,
            self.settings.paste_back,
            self.settings.interpolation,
            expression_strength=self.settings.expression_strength,
            head_strength=self.settings.head_strength,
        ) as drawing:
            yield from previewed_frames(drawing.frames, self.motion, shown)


@dataclass(frozen=True)
class _DecodedVideo:
    """The frames of sampled latents, decoded a few at a time; the autoencoder is held while one iterates."""

    video: SampledVideo
    progress: ProgressCallback | None

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in _decoded_parts(self.video, progress_of(self.progress).update):
            yield from (part.numpy() * 255).round().astype(np.uint8)


def _decoded_parts(video: SampledVideo, progress: ProgressCallback) -> Iterator[Tensor]:
    """Yield (n, H, W, 3) float32 in 0..1, one part after the other."""
    if isinstance(video.model, ACTalkerModels):
        latents, shared = video.latent["samples"], DECODED_OVERLAP
        return actalker_clips.decoded_clip_parts(video.model, latents, overlap=shared, progress=progress)
    return fantasytalking_latents.decoded_clip_parts(video.model, video.latent, progress=progress)


def render(
    sampled: FaceMotion | SampledVideo,
    portrait: Portrait | PortraitVideo | None = None,
    sound: Sound | None = None,
    renderer: RendererModels | None = None,
    *,
    expression_strength: float = 1.0,
    head_strength: float = 1.0,
    interpolation: str = "cubic",
    paste_back: bool = True,
    progress: ProgressCallback | None = None,
) -> Rendering:
    """Return the frames of what was sampled, drawn when they are asked for, and their sound.

    sampled: motion, which moves `portrait`, or a sampled video, which holds its own. sound: by the frame clock it ends
    with the picture: the shorter of sound and motion is lengthened, by silence or by holding still. renderer: None is
    the embedded mesh renderer; for LivePortrait motion in blendshapes is retargeted first, as `retarget` does.
    expression_strength, head_strength, interpolation, paste_back: of motion, see DrawingSettings.
    Motion is drawn one frame at a time, a sampled video decoded a few at a time, however long they are. progress:
    called as they come with (steps done, total); of motion a step is a frame.
    Raises ValueError for motion without a portrait, or implicit keypoints without LivePortrait.
    """
    if isinstance(sampled, SampledVideo):
        return _rendered_video(sampled, sound, progress)
    if portrait is None:
        raise ValueError("motion moves a portrait: give portrait=, from load_portrait")
    if sampled.space == IMPLICIT_KEYPOINTS and renderer is None:
        raise ValueError(
            "motion in implicit keypoints is drawn by LivePortrait: give renderer=load_liveportrait()"
        )
    motion, sound = motion_and_sound(portrait, sampled, sound)
    if renderer is not None:
        motion = motion_for_renderer(motion, portrait, renderer)
    settings = DrawingSettings(expression_strength, head_strength, interpolation, paste_back)
    made = _DrawnMotion(motion, portrait, renderer, settings, progress)
    return Rendering(float(motion.fps), motion.frame_count, sound, made)


def _rendered_video(video: SampledVideo, sound: Sound | None, progress: ProgressCallback | None) -> Rendering:
    """Return the frames of a sampled video; silence is appended to the sound, which may be no longer than they are.

    Raises ValueError for sound that is longer: the clip was sampled for other sound.
    """
    if sound is not None:
        wanted = frame_count(sound.duration, video.fps)
        if wanted > video.frame_count:
            raise ValueError(
                f"the sound lasts {sound.duration:.2f} s, but the clip of {video.frame_count} frames only "
                f"{video.frame_count / video.fps:.2f} s: sample it with this sound, or cut the sound"
            )
        samples = sample_count(video.frame_count, video.fps, sound.sample_rate)
        sound = Sound(with_length(sound.waveform, samples), sound.sample_rate)
    return Rendering(float(video.fps), video.frame_count, sound, _DecodedVideo(video, progress))


@cancellable()
def save_video(
    path: str | os.PathLike[str],
    frames: Rendering | Iterable[np.ndarray],
    *,
    fps: float | None = None,
    sound: Sound | None = None,
    metadata: Mapping[str, str] | None = None,
    crf: int = DEFAULT_CRF,
    preset: str = DEFAULT_PRESET,
) -> Path:
    """Write an mp4 and return its path; each frame is asked for as it is written, none is kept.

    frames: what `render` returned, which brings its rate and sound, or (H, W, 3) uint8 RGB frames with their `fps` and,
    if there is one, their `sound`. metadata, crf, preset: see `write_video`. The file appears under its name when it is
    whole; after an error or `cancel` nothing is left.
    Raises ValueError for frames without fps, and as `write_video`.
    """
    if isinstance(frames, Rendering):
        fps, sound = fps or frames.fps, sound or frames.sound
    if fps is None:
        raise ValueError("these frames have no rate of their own: give their fps")
    write_video(path, frames, fps, sound, metadata, crf=crf, preset=preset)
    return Path(path)
