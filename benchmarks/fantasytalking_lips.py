"""How much of the lips' movement the small FantasyTalking's autoencoder keeps: what a model behind it can show at most.

    python benchmarks/fantasytalking_lips.py --clips clips_held_out.npz --reader reader.safetensors [--autoencoder X]

A latent frame holds four frames. Printed are the correlations, within clips, of the true mouth with the mean over each
latent's frames alone, and of what a reader sees with the true mouth: in the clips, and as the autoencoder gives them
back; of the latter also the part that changes within a latent. And how near pictures come, in dB.
`talking-portrait train fantasytalking` makes clips and reader.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

EMBEDDED = "fantasytalking_pocket_autoencoder.safetensors"


def main(arguments: list[str]) -> int:
    """Print the figures of one autoencoder; returns 0."""
    from talking_portrait.core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder
    from talking_portrait.training.correlation import correlation
    from talking_portrait.training.fantasytalking_data import read_talking_clips
    from talking_portrait.training.fantasytalking_latents import clip_latents, frames_of_latents
    from talking_portrait.training.fantasytalking_readers import load_talking_reader

    options = parsed(arguments)
    autoencoder, reader = load_wan_autoencoder(options.autoencoder), load_talking_reader(options.reader)
    rows = []
    for clip in read_talking_clips(options.clips).clips:
        given_back = frames_of_latents(autoencoder, clip_latents(autoencoder, clip.frames))
        true, seen = clip.mouth_opening[1:], reader.read(given_back).mouth[1:]
        error = np.square(given_back.astype(np.float64) - clip.frames).mean()
        rows.append(
            (
                correlation(true - deviations(true), true),
                correlation(reader.read(clip.frames).mouth, clip.mouth_opening),
                correlation(seen, true),
                correlation(deviations(seen), deviations(true)),
                10 * np.log10(255**2 / error),
            )
        )
    names = ("mean over a latent alone", "seen in the clips", "seen after", "changes within a latent", "dB")
    for name, value in zip(names, np.mean(rows, axis=0), strict=True):
        sys.stdout.write(f"{name}: {value:.2f}\n")
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--reader", type=Path, required=True)
    embedded = Path(__file__).resolve().parents[1] / "core_models" / "embedded" / EMBEDDED
    parser.add_argument("--autoencoder", type=Path, default=embedded, help="default: the embedded one")
    return parser.parse_args(arguments)


def deviations(opening: np.ndarray) -> np.ndarray:
    """Return (N,) how far each frame lies from the mean of its latent's four; N is a multiple of 4."""
    from talking_portrait.core_models.video_diffusion.wan.frame_rules import FRAMES_PER_LATENT

    groups = opening.reshape(-1, FRAMES_PER_LATENT)
    return (groups - groups.mean(axis=1, keepdims=True)).ravel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
