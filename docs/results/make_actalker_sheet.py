"""Makes actalker_gates.jpg: held-out made heads steered by sound, by another's motion, and by both.

python docs/results/make_actalker_sheet.py HELD_OUT_CLIPS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).resolve().with_name("actalker_gates.jpg")
TRIALS = (1, 5)
"""Of eight: which are shown."""
EVERY = 4
ENLARGED = 2


def main(arguments: list[str]) -> int:
    """Write the picture beside this file; returns 0."""
    from talking_portrait.core_models.video_diffusion.actalker.loading import load_actalker
    from talking_portrait.core_models.video_diffusion.autoencoder import load_video_autoencoder
    from talking_portrait.training.actalker_data import read_clips
    from talking_portrait.training.actalker_evaluation import AUDIO, JOINT, MOTION, made_frames, trials_of

    embedded = ROOT / "core_models" / "embedded"
    model = load_actalker(embedded / "actalker_pocket.safetensors")
    autoencoder = load_video_autoencoder(embedded / "actalker_pocket_autoencoder.safetensors")
    trials = trials_of(read_clips(Path(arguments[0])), 8)
    rows = []
    for trial in (trials[number] for number in TRIALS):
        rows += [trial.clip.frames, trial.mover.frames]
        rows += [made_frames(model, autoencoder, trial, setting) for setting in (AUDIO, MOTION, JOINT)]
    sheet = np.concatenate([np.concatenate(list(frames[::EVERY]), axis=1) for frames in rows])
    sheet = cv2.resize(sheet, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(FILE), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
