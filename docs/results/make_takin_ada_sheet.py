"""Makes takin_ada_emotions.jpg and takin_ada_curves.png: one audio in seven emotions, by a small Takin-ADA.

python docs/results/make_takin_ada_sheet.py takin_pocket.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = 8
TILE = 150
STEPS, SEED = 8, 3
CURVE_SIZE = (1000, 120)
COLOURS = (
    *((120, 120, 120), (235, 150, 30), (60, 110, 200), (210, 50, 50)),
    *((40, 160, 90), (140, 90, 180), (60, 170, 190)),
)
"""One for each emotion, in the order of EMOTION_NAMES."""


def main(arguments: list[str]) -> int:
    """Write both pictures beside this file; returns 0."""
    from talking_portrait.core_models.audio.decode import decode_sound
    from talking_portrait.core_models.audio.embedding import embed_audio
    from talking_portrait.core_models.keypoint_diffusion.sampler import lip_opening
    from talking_portrait.core_models.keypoint_diffusion.takin_ada_loading import load_takin_ada
    from talking_portrait.core_models.keypoint_diffusion.takin_ada_performance import (
        TakinADAOptions,
        speaking_face,
    )
    from talking_portrait.core_models.motion.track import map_frames
    from talking_portrait.core_models.rendering.mesh import MeshRenderer
    from talking_portrait.core_models.types import BLENDSHAPE_INDEX, EMOTION_NAMES, Emotion
    from talking_portrait.headless.live_command import read_portrait

    model = load_takin_ada(arguments[0])
    embedding = embed_audio(decode_sound(ROOT / "workflows/assets/demo_speech.wav"))
    options = TakinADAOptions.of({"steps": STEPS, "seed": SEED})
    tracks = [
        speaking_face(model, embedding, Emotion.mixed({name: 1.0}), options)[0] for name in EMOTION_NAMES
    ]
    renderer = MeshRenderer(read_portrait(None, 512))
    moments = np.linspace(8, tracks[0].frame_count - 20, MOMENTS).astype(int)
    rows = []
    for name, track in zip(EMOTION_NAMES, tracks, strict=True):
        chosen = map_frames(track, lambda values: values[moments])
        tiles = [
            cv2.resize(_face(frame), (TILE, TILE), interpolation=cv2.INTER_AREA)
            for frame in renderer.frames(chosen)
        ]
        row = np.concatenate(tiles, axis=1)
        cv2.putText(row, name, (5, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(row)
    folder = Path(__file__).parent
    sheet = np.concatenate(rows)
    cv2.imwrite(str(folder / "takin_ada_emotions.jpg"), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    lips = [lip_opening(track.expression) for track in tracks]
    brows = [track.expression[:, BLENDSHAPE_INDEX["browInnerUp"]] for track in tracks]
    smile = [track.expression[:, BLENDSHAPE_INDEX["mouthSmileLeft"]] for track in tracks]
    lanes = [_lane("lip opening", lips), _lane("browInnerUp", brows), _lane("mouthSmileLeft", smile)]
    cv2.imwrite(str(folder / "takin_ada_curves.png"), np.concatenate(lanes)[..., ::-1])
    return 0


def _face(frame: np.ndarray) -> np.ndarray:
    """Return the square about the demo portrait's face."""
    return frame[20:300, 90:370]


def _lane(title: str, curves: list[np.ndarray]) -> np.ndarray:
    """Return (height, width, 3): a curve for each emotion on one scale."""
    width, height = CURVE_SIZE
    picture = np.full((height, width, 3), 255, np.uint8)
    top = max(float(curve.max()) for curve in curves) or 1.0
    for curve, colour in zip(curves, COLOURS, strict=True):
        x = np.linspace(0, width - 1, len(curve))
        y = height - 8 - (height - 26) * curve / top
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        cv2.polylines(picture, [points[:, None]], False, colour, 1, cv2.LINE_AA)
    cv2.putText(picture, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
