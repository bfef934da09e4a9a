"""How much more memory 2,000 frames need than 200, from motion to mp4 through Render Talking Video on LivePortrait.

`python benchmarks/liveportrait_memory.py [--frames 200 2000] [--published]` prints the peak resident memory of a fresh
process for each length, and the difference. The networks have made weights; they are narrow ones of the same classes,
which a CPU gets through, unless --published asks for the published sizes (seconds a frame).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import peak_megabytes

ROOT = Path(__file__).resolve().parent.parent


def made_networks(published: bool) -> Any:
    """Return LivePortrait's networks with random weights, narrow ones unless `published`."""
    import torch
    from talking_portrait.core_models.motion.motion_extractor import MotionExtractor
    from talking_portrait.core_models.rendering.liveportrait.appearance import (
        AppearanceFeatureExtractor,
        AppearanceParameters,
    )
    from talking_portrait.core_models.rendering.liveportrait.dense_motion import DenseMotionParameters
    from talking_portrait.core_models.rendering.liveportrait.frame_generator import FrameGenerator
    from talking_portrait.core_models.rendering.liveportrait.generator import (
        GeneratorParameters,
        SpadeGenerator,
    )
    from talking_portrait.core_models.rendering.liveportrait.keypoint_renderer import KeypointNetworks
    from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule, WarpingParameters

    torch.manual_seed(0)
    if published:
        appearance = AppearanceFeatureExtractor()
        warping, generator = WarpingModule(), SpadeGenerator()
    else:
        volume = {"volume_channels": 4, "volume_depth": 4}
        appearance = AppearanceFeatureExtractor(AppearanceParameters(max_channels=16, **volume))
        motion = DenseMotionParameters(compressed_channels=1, first_channels=4, max_channels=16, **volume)
        warping = WarpingModule(WarpingParameters(out_channels=32, dense_motion=motion))
        generator = SpadeGenerator(
            GeneratorParameters(feature_channels=32, channels=64, middle_blocks=1, out_channels=16)
        )
    extractor = MotionExtractor().eval()
    torch.nn.init.constant_(extractor.detector.fc_scale.bias, 1.5)  # a face has a size
    return KeypointNetworks(appearance.eval(), extractor, FrameGenerator(warping.eval(), generator.eval()))


def render(frame_count: int, folder: Path, published: bool) -> None:
    """Render a turning head with the node that writes videos, sound included."""
    import torch
    from skimage.data import astronaut
    from talking_portrait.core_models.face.landmarks import read_landmarks
    from talking_portrait.core_models.face.portrait import portrait_from_landmarks
    from talking_portrait.core_models.types import IMPLICIT_KEYPOINTS, FaceMotion, ModelHandle, RendererModels
    from talking_portrait.nodes.rendering import RenderTalkingVideo
    from talking_portrait.runtime import renderer_models
    from talking_portrait.runtime.host import host

    networks = made_networks(published)

    @contextmanager
    def in_use(models: RendererModels) -> Iterator[Any]:
        yield networks

    renderer_models.keypoint_networks = in_use
    handle = ModelHandle(name="made", path="")
    face = read_landmarks(ROOT / "workflows" / "assets" / "astronaut.landmarks.json")
    portrait = portrait_from_landmarks(astronaut(), face.landmarks, face.blendshapes)
    turn = 10 * np.sin(np.arange(frame_count) / 9)[:, None] * [0.3, 1, 0.2]
    still = np.zeros((frame_count, 3))
    motion = FaceMotion(
        IMPLICIT_KEYPOINTS, 25.0, np.zeros((frame_count, 63)), turn, still, np.ones(frame_count)
    )
    sound = {"waveform": torch.zeros(1, 1, 640 * frame_count), "sample_rate": 16000}
    with host().using_folders(folder, folder, folder):
        RenderTalkingVideo().render(
            portrait,
            motion,
            "long",
            sound,
            RendererModels("liveportrait", handle, handle, handle, handle),
            expression_strength=1.0,
            head_strength=1.0,
            interpolation="cubic",
        )


def main() -> None:
    """Print the peaks, or, with --render, be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs=2, default=(200, 2000))
    parser.add_argument("--published", action="store_true", help="the published sizes")
    parser.add_argument("--render", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.render is not None:
        with tempfile.TemporaryDirectory() as folder:
            render(options.render, Path(folder), options.published)
        return
    size = ["--published"] * options.published
    peaks = [peak_megabytes(__file__, "--render", str(count), *size) for count in options.frames]
    for count, peak in zip(options.frames, peaks, strict=True):
        sys.stdout.write(f"{count:5d} frames: {peak:7.0f} MB at most\n")
    sys.stdout.write(f"difference: {peaks[1] - peaks[0]:.0f} MB\n")


if __name__ == "__main__":
    main()
