"""Makes fantasytalking.jpg: held-out made heads, what the small model makes of them, and three motion intensities.

python docs/results/make_fantasytalking_sheet.py HELD_OUT_CLIPS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).resolve().with_name("fantasytalking.jpg")
CLIPS = (0, 13, 22)
"""Of the held-out clips: which are shown."""
INTENSITIES = (0.1, 0.5, 1.0)
EVERY = 4
ENLARGED = 2


def main(arguments: list[str]) -> int:
    """Write the picture beside this file; returns 0."""
    from talking_portrait.core_models.video_diffusion.fantasytalking.loading import load_fantasytalking_file
    from talking_portrait.core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder
    from talking_portrait.training.fantasytalking_data import read_talking_clips
    from talking_portrait.training.fantasytalking_evaluation import Setting, made_frames
    from talking_portrait.training.fantasytalking_latents import clip_latents, frames_of_latents

    embedded = ROOT / "core_models" / "embedded"
    model = load_fantasytalking_file(embedded / "fantasytalking_pocket.safetensors")
    autoencoder = load_wan_autoencoder(embedded / "fantasytalking_pocket_autoencoder.safetensors")
    clips = read_talking_clips(Path(arguments[0])).clips
    rows = []
    for clip in (clips[number] for number in CLIPS):
        rows += [clip.frames, frames_of_latents(autoencoder, clip_latents(autoencoder, clip.frames))]
        for value in INTENSITIES:
            rows.append(made_frames(model, autoencoder, clip, Setting(face=value, body=value)))
    sheet = np.concatenate([np.concatenate(list(frames[::EVERY]), axis=1) for frames in rows])
    sheet = cv2.resize(sheet, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(FILE), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
