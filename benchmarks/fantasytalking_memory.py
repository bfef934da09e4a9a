"""How much more memory a minute of a talking scene needs than three seconds: sampled in windows, decoded in a stream.

    python benchmarks/fantasytalking_memory.py

Prints the peak resident memory of a fresh process for each length, by the embedded model; frames are counted and let go
of as they come, as a writer of films does.
"""

from __future__ import annotations

import argparse
import sys

from peak_memory import peak_megabytes

LENGTHS = (3.0, 15.0, 60.0)
STEPS = 4


def sample_and_decode(seconds: float) -> int:
    """Return how many frames were decoded of a scene with sound of so many seconds."""
    import torch
    from talking_portrait.core_models.types import AudioEmbedding
    from talking_portrait.core_models.video_diffusion.fantasytalking.performance import talking_scene
    from talking_portrait.core_models.video_diffusion.fantasytalking.scene_options import (
        FantasyTalkingOptions,
        scene_length,
    )
    from talking_portrait.core_models.video_diffusion.wan.autoencoder import decoded_chunks
    from talking_portrait.core_models.video_diffusion.wan.frame_rules import latent_frames
    from talking_portrait.runtime import fantasytalking_models as models

    chosen = models.fantasytalking_models(models.wan_models(models.POCKET_CHOICE))
    options = FantasyTalkingOptions(steps=STEPS)
    with models.fantasytalking_model(chosen) as model, models.wan_autoencoder(chosen.wan) as autoencoder:
        sizes = model.parameters_used
        features = torch.zeros(round(50 * seconds), sizes.audio.layers, sizes.audio.channels)
        audio = AudioEmbedding(features, 50.0, seconds, sizes.listening)
        window = latent_frames(scene_length(sizes, audio, options).window_frames)
        side = sizes.defaults.image_size // autoencoder.spatial_compression_ratio
        image = torch.zeros(sizes.wan.condition_channels, window, side, side)
        scene = talking_scene(model, image, audio=audio, options=options)
        return sum(chunk.shape[1] for chunk in decoded_chunks(autoencoder, scene.latents))


def main() -> None:
    """Print the peaks, or, with --sample, be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample is not None:
        sys.stdout.write(f"{options.sample:.0f} s, {sample_and_decode(options.sample)} frames: ")
        sys.stdout.flush()
        return
    for seconds in LENGTHS:
        sys.stdout.write(f"{peak_megabytes(__file__, '--sample', str(seconds)):.0f} MB at most\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
