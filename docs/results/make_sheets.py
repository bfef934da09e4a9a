"""Make the contact sheets of docs/results: frames of portraits that speak, side by side.

`python docs/results/make_sheets.py [--pictures FOLDER] [--speech FILE]` writes the demo's sheet and one of every
emotion; with a folder of portraits (and the face bundle in TALKING_PORTRAIT_MODELS) also one sheet for each of
PICTURES found there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from skimage.data import astronaut
from talking_portrait.core_models.audio.decode import decode_sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.face.landmarks import read_landmarks
from talking_portrait.core_models.face.picture import load_picture
from talking_portrait.core_models.face.portrait import portrait_from_frame, portrait_from_landmarks
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS
from talking_portrait.core_models.keypoint_diffusion.sampler import SamplingParameters, sample_motion
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.types import Emotion, FaceMotion, Portrait

FOLDER = Path(__file__).resolve().parent
ASSETS = FOLDER.parent.parent / "workflows" / "assets"
PICTURES = (
    "older_woman_photo_uniform.jpg",
    "child_painting.jpg",
    "girl_painting_three_quarter.jpg",
    "statue_clay.jpg",
)
EMOTIONAL_PAINTING = "child_painting.jpg"
TILE = 200
FRAMES_SHOWN = 12
COLUMNS = 6
FACE_MARGIN = 0.75  # of the face's size, kept around it in a tile


def demo_portrait() -> Portrait:
    """Return the astronaut with the landmarks that ship."""
    face = read_landmarks(ASSETS / "astronaut.landmarks.json")
    return portrait_from_landmarks(astronaut(), face.landmarks, face.blendshapes)


def tile(frame: np.ndarray, portrait: Portrait) -> np.ndarray:
    """Return the face's surroundings of a frame as a (TILE, TILE, 3) picture."""
    points = portrait.landmarks[:, :2]
    centre, size = (points.min(axis=0) + points.max(axis=0)) / 2, np.ptp(points, axis=0).max()
    half = size * (0.5 + FACE_MARGIN / 2)
    low = np.maximum(np.round(centre - half), 0).astype(int)
    high = np.round(centre + half).astype(int)
    return cv2.resize(frame[low[1] : high[1], low[0] : high[0]], (TILE, TILE), interpolation=cv2.INTER_AREA)


def sheet(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Return tiles in rows."""
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def frames_of(portrait: Portrait, motion: FaceMotion, indices: np.ndarray) -> list[np.ndarray]:
    """Return the chosen frames as tiles."""
    renderer = MeshRenderer(portrait)
    return [tile(renderer.render(motion, int(index)), portrait) for index in indices]


def emotion_sheet(portrait: Portrait, tracks: dict[str, FaceMotion], indices: np.ndarray) -> np.ndarray:
    """Return a row of frames for each emotion."""
    return sheet([t for track in tracks.values() for t in frames_of(portrait, track, indices)], len(indices))


def save(name: str, picture: np.ndarray) -> None:
    """Write one sheet as JPEG."""
    cv2.imwrite(str(FOLDER / f"{name}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    """Write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder with the portraits named in PICTURES")
    parser.add_argument("--speech", type=Path, default=ASSETS / "demo_speech.wav")
    options = parser.parse_args()
    model, embedding = load_pocket(), embed_audio(decode_sound(options.speech))
    motion = sample_motion(model, embedding, None, SamplingParameters(seed=2))
    spread = np.linspace(10, motion.frame_count - 12, FRAMES_SHOWN).astype(int)
    save("demo", sheet(frames_of(demo_portrait(), motion, spread), COLUMNS))
    emotional = {
        name: sample_motion(model, embedding, Emotion.mixed({name: 1.0}), SamplingParameters(seed=2))
        for name in POCKET_EMOTIONS
    }
    save("emotions", emotion_sheet(demo_portrait(), emotional, spread[1::2]))
    if options.pictures is None:
        return
    from talking_portrait.core_models.face.landmarker import FaceLandmarker
    from talking_portrait.runtime.weights import find_weight

    landmarker = FaceLandmarker(find_weight("face_landmarker"))
    for name in PICTURES:
        portrait = portrait_from_frame(load_picture(options.pictures / name), landmarker)
        save(Path(name).stem, sheet(frames_of(portrait, motion, spread), COLUMNS))
        if name == EMOTIONAL_PAINTING:
            save("emotions_painting", emotion_sheet(portrait, emotional, spread[1::2]))


if __name__ == "__main__":
    main()
