"""How much memory KDTalker needs for ten minutes of speech, sound to motion, against one minute.

    python benchmarks/kdtalker_memory.py [--steps 10] [--wav2lip wav2lip.pth --kdtalker KDTalker.pth]

Prints the peak resident memory of a fresh process for each length, and the seconds that features and sampling took. The
networks are of the published sizes; without files their weights are made. Rendering is measured by
liveportrait_memory.py: its memory does not depend on where the motion comes from.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from peak_memory import peak_megabytes

MINUTES = (1.0, 10.0)


def speak(minutes: float, arguments: argparse.Namespace) -> None:
    """Make the motion for `minutes` of the demo speech, repeated, and say how long it took."""
    import numpy as np
    import torch
    from kdtalker import ROOT_OF_DEMO, published_denoiser
    from talking_portrait.core_models.audio.decode import Sound, decode_sound
    from talking_portrait.core_models.audio.embedding import WAV2LIP, embed_audio
    from talking_portrait.core_models.audio.wav2lip_encoder import (
        Wav2LipSpeechEncoder,
        fused,
        load_wav2lip_encoder,
    )
    from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTalkerModel
    from talking_portrait.core_models.keypoint_diffusion.kdtalker_performance import (
        KDTalkerOptions,
        speaking_motion,
    )
    from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
        MotionStatistics,
        readings_from_vectors,
    )

    speech = decode_sound(ROOT_OF_DEMO)
    samples = round(60 * minutes * speech.sample_rate)
    sound = Sound(np.resize(speech.waveform, (1, samples)), speech.sample_rate)
    encoder = load_wav2lip_encoder(arguments.wav2lip) if arguments.wav2lip else fused(Wav2LipSpeechEncoder())
    began = time.perf_counter()
    embedding = embed_audio(sound, WAV2LIP, encoder)
    heard = time.perf_counter()
    statistics = MotionStatistics(np.zeros(70), np.full(70, 0.01), np.zeros(63), np.ones(63))
    denoiser = published_denoiser(arguments.kdtalker)
    with torch.device("meta"):
        model = KDTalkerModel(denoiser.parameters_used, statistics)
    model.denoiser = denoiser
    vector = np.zeros((1, 70))
    vector[:, 0] = 1.5
    source = readings_from_vectors(vector, np.zeros((1, 21, 3)))
    options = KDTalkerOptions().with_settings({"steps": arguments.steps})
    (motion,) = speaking_motion(model, source, embedding, options)
    sys.stdout.write(
        f"{minutes:g} minutes, {motion.frame_count} frames: features {heard - began:.1f} s, "
        f"motion {time.perf_counter() - heard:.1f} s\n"
    )


def main() -> None:
    """Print the peaks, or, with --minutes, be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--wav2lip", type=Path)
    parser.add_argument("--kdtalker", type=Path)
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.minutes is not None:
        speak(arguments.minutes, arguments)
        return
    peaks = [peak_megabytes(__file__, "--minutes", str(minutes), *sys.argv[1:]) for minutes in MINUTES]
    for minutes, peak in zip(MINUTES, peaks, strict=True):
        sys.stdout.write(f"{minutes:g} minutes of speech: {peak:.0f} MB at most\n")


if __name__ == "__main__":
    main()
