"""Make the contact sheets of docs/results/editing.md: sliders, two drivers mixed by region, a film that is re-voiced.

`python docs/results/make_editing_sheets.py` needs the face bundle in TALKING_PORTRAIT_MODELS for the last two.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from make_sheets import ASSETS, COLUMNS, demo_portrait, frames_of, save, sheet, tile
from talking_portrait.core_models.audio.decode import decode_sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.driving_video import DrivingVideo, read_driving_video
from talking_portrait.core_models.face.landmarker import FaceLandmarker
from talking_portrait.core_models.face.portrait_video import portrait_video
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.sampler import SamplingParameters, sample_motion
from talking_portrait.core_models.motion.expression_editor import ExpressionEdit, still_motion
from talking_portrait.core_models.motion.from_video import motion_from_frames
from talking_portrait.core_models.motion.regions import mix_motion, scale_motion
from talking_portrait.core_models.rendering.mesh_video import MeshVideoRenderer
from talking_portrait.core_models.types import FaceMotion
from talking_portrait.runtime.weights import find_weight

EDITS = (
    {},
    *({"smile": 1.0}, {"smile": -1.0}, {"blink": 1.0}, {"wink_left": 1.0}, {"wink_right": 1.0}),
    *({"brows": 1.0}, {"brows": -1.0}, {"gaze_x": 1.0}, {"gaze_x": -1.0}, {"gaze_y": 1.0}),
    *({"aaa": 1.0}, {"eee": 1.0}, {"woo": 1.0}, {"yaw": 12.0}, {"pitch": -8.0}),
    *({"roll": 10.0}, {"smile": 1.0, "aaa": 0.6, "brows": 0.6, "yaw": -8.0}),
)
MOUTH_ONLY = {"pose": 0.0, "eyes": 0.0, "brows": 0.0, "cheeks": 0.0}


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """Return a copy of a tile with a line of text at its foot."""
    result = picture.copy()
    place = (6, picture.shape[0] - 8)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(result, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)
    return result


def slider_sheet() -> np.ndarray:
    """Return the demo portrait once for each edit."""
    portrait = demo_portrait()
    tiles = []
    for values in EDITS:
        motion = still_motion(ExpressionEdit(**values), 1, 25.0)
        (frame,) = frames_of(portrait, motion, np.array([0]))
        text = " ".join(f"{name} {value:g}" for name, value in values.items()) or "the photo"
        text = text if len(values) < 3 else "smile, aaa, brows, yaw"
        tiles.append(labelled(frame, text))
    return sheet(tiles, COLUMNS)


def mixing_sheet(spoken: FaceMotion, driven: FaceMotion) -> np.ndarray:
    """Return three rows: lips by speech alone, all by a film alone, and both mixed by region."""
    portrait = demo_portrait()
    count = min(spoken.frame_count, driven.frame_count)
    shown = np.linspace(6, count - 10, COLUMNS).astype(int)
    lips = scale_motion(spoken, MOUTH_ONLY)
    mixed = mix_motion(spoken, driven, {"eyes": 1.0, "brows": 1.0, "pose": 1.0})
    rows = (("speech", lips), ("film", driven), ("mixed", mixed))
    return sheet(
        [labelled(t, name) for name, track in rows for t in frames_of(portrait, track, shown)], COLUMNS
    )


def video_sheet(clip: DrivingVideo, landmarker: FaceLandmarker, spoken: FaceMotion) -> np.ndarray:
    """Return two rows: frames of the film, and the same frames saying something else."""
    film = portrait_video(clip.frames, clip.fps, landmarker)
    shown = np.linspace(6, len(film.portraits) - 10, COLUMNS).astype(int)
    edited = chosen(MeshVideoRenderer(film).frames(scale_motion(spoken, MOUTH_ONLY)), shown)
    rows = [film.portraits[index].frame for index in shown], edited
    faces = [film.portraits[index] for index in shown]
    names = ("film", "re-voiced")
    return sheet(
        [
            labelled(tile(frame, face), name)
            for name, row in zip(names, rows, strict=True)
            for frame, face in zip(row, faces, strict=True)
        ],
        COLUMNS,
    )


def chosen(frames: Iterable[np.ndarray], indices: np.ndarray) -> list[np.ndarray]:
    """Return the frames of these indices."""
    return [frame for index, frame in enumerate(frames) if index in indices]


def main() -> None:
    """Write the sheets."""
    save("sliders", slider_sheet())
    landmarker = FaceLandmarker(find_weight("face_landmarker"))
    clip = read_driving_video(ASSETS / "demo_driving.mp4")
    embedding = embed_audio(decode_sound(ASSETS / "demo_speech.wav"))
    spoken = sample_motion(load_pocket(), embedding, None, SamplingParameters(seed=2, fps=clip.fps))
    driven = motion_from_frames(clip.frames, clip.fps, landmarker)
    save("mixed_by_region", mixing_sheet(spoken, driven))
    save("video_edit", video_sheet(clip, landmarker, spoken))


if __name__ == "__main__":
    main()
