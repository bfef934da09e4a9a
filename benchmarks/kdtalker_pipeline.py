"""How many frames a second KDTalker makes end to end: sound to 512 x 512 faces, published sizes.

    python benchmarks/kdtalker_pipeline.py [--device cuda] [--seconds 5] [--precision auto] [--steps 10] [--compile]

Speech is encoded, motion sampled and every frame drawn, as one clip. Weights are made; time does not depend on them. On
a processor a frame takes seconds, so give a short clip there. The authors' figure is 21.7 frames a second; twice that
is aimed at.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from kdtalker import ROOT_OF_DEMO, published_denoiser
from renderer import deterministic_networks

AIM = 42.0


@dataclass
class Clock:
    """Seconds since the last look, the device's work included."""

    device: str
    last: float = 0.0

    def lap(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter()
        lap, self.last = now - self.last, now
        return lap


def speech(seconds: float):
    """Return the demo speech, repeated to a length."""
    from talking_portrait.core_models.audio.decode import Sound, decode_sound

    demo = decode_sound(ROOT_OF_DEMO)
    return Sound(np.resize(demo.waveform, (1, round(seconds * demo.sample_rate))), demo.sample_rate)


@torch.inference_mode()
def measure(arguments: argparse.Namespace) -> None:
    """Make the clip twice, the first time to warm up, and print what each part took."""
    from talking_portrait.core_models.audio.embedding import WAV2LIP, embed_audio
    from talking_portrait.core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder, fused
    from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTalkerModel
    from talking_portrait.core_models.keypoint_diffusion.kdtalker_performance import (
        KDTalkerOptions,
        speaking_motion,
    )
    from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
        MotionStatistics,
        readings_from_vectors,
    )
    from talking_portrait.core_models.motion.keypoint_driving import moved_readings
    from talking_portrait.core_models.motion.keypoint_extraction import read_keypoints
    from talking_portrait.core_models.rendering.liveportrait.frame_generator import (
        FrameGenerator,
        default_method,
        images_as_bytes,
    )
    from talking_portrait.core_models.rendering.liveportrait.keypoint_renderer import automatic_batch

    device = arguments.device
    precision = arguments.precision
    if precision == "auto":
        precision = "float32" if device == "cpu" else "float16"
    appearance, extractor, warping, generator = (network.to(device) for network in deterministic_networks())
    method = default_method(device, precision)
    drawing = FrameGenerator(warping, generator, precision, method, arguments.compile).to(device)
    statistics = MotionStatistics(np.zeros(70), np.full(70, 0.01), np.zeros(63), np.ones(63))
    denoiser = published_denoiser(None).to(device)
    with torch.device("meta"):
        model = KDTalkerModel(denoiser.parameters_used, statistics)
    model.denoiser = denoiser
    encoder = fused(Wav2LipSpeechEncoder()).to(device)
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    read_keypoints([picture], extractor)  # made weights read no face: this one is made up
    vector = np.zeros((1, 70))
    vector[:, 0] = 1.5
    source = readings_from_vectors(vector, np.random.default_rng(1).normal(0, 0.2, (1, 21, 3)))
    features = appearance(torch.from_numpy(picture).to(device).permute(2, 0, 1)[None] / 255)
    options = KDTalkerOptions().with_settings({"steps": arguments.steps})
    sound, clock = speech(arguments.seconds), Clock(device)
    for _ in range(2):
        clock.lap()
        embedding = embed_audio(sound, WAV2LIP, encoder)
        heard = clock.lap()
        (motion,) = speaking_motion(model, source, embedding, options, compiled=arguments.compile)
        sampled = clock.lap()
        points = torch.from_numpy(moved_readings(source, motion).keypoints).float().to(device)
        still = torch.from_numpy(source.keypoints).float().to(device)
        prepared = drawing.prepare(features, still)
        for batch in points.split(arguments.batch or automatic_batch(points.device)):
            images_as_bytes(drawing.generate(prepared, batch)).cpu()
        drawn = clock.lap()
    whole = heard + sampled + drawn
    sys.stdout.write(
        f"{device}, {precision}, {motion.frame_count} frames: features {heard:.2f} s, motion {sampled:.2f} s, frames "
        f"{drawn:.2f} s; {motion.frame_count / whole:.2f} frames a second end to end (aim {AIM:g})\n"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=0, help="frames drawn at once; 0 by free memory")
    parser.add_argument("--compile", action="store_true")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
