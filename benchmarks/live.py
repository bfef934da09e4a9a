"""How fast a live portrait is: latency to the first frame, and frames a second, motion alone and with the picture.

    python benchmarks/live.py [--model pocket] [--threads 1 2] [--speech S] [--size 512] [--look-ahead 12]

Sound is given in pieces of 40 ms as fast as they are taken. The first frame's latency is the sound it waits for plus
the compute after the last piece of it. Every measurement begins a new stream, after one has warmed up.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from mesh_renderer import ROOT, load_package

PIECE = 640


def measure(stream, waveform, renderer) -> tuple[float, float, int, float, float]:
    """Return sound before the first frame, compute for it, frames, compute in all by the clock and of CPU; seconds."""
    heard = first = None
    frames = 0
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for start in [*range(0, len(waveform), PIECE), None]:
        piece_begin = time.perf_counter()
        motion = stream.finish() if start is None else stream.push(waveform[start : start + PIECE])
        for _ in () if motion is None else _pictures(motion, renderer):
            frames += 1
            if first is None:
                heard, first = (start + PIECE) / stream.sample_rate, time.perf_counter() - piece_begin
    return heard, first, frames, time.perf_counter() - begin, time.process_time() - cpu_begin


def _pictures(motion, renderer):
    return range(motion.frame_count) if renderer is None else renderer.frames(motion)


def main() -> None:
    """Print a line per number of threads, without and with the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="as in `talking-portrait live`")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--speech", type=Path, default=ROOT / "workflows/assets/demo_speech.wav")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--look-ahead", type=int)
    arguments = parser.parse_args()
    load_package()
    import cv2
    import torch
    from talking_portrait.core_models.audio.decode import decode_sound
    from talking_portrait.core_models.audio.resample import resample, to_mono
    from talking_portrait.core_models.rendering.mesh import MeshRenderer
    from talking_portrait.headless.live_command import read_portrait
    from talking_portrait.runtime.motion_streams import motion_stream

    waveform = resample(to_mono(decode_sound(arguments.speech)), 16000).waveform[0]
    renderer = MeshRenderer(read_portrait(None, arguments.size))
    for threads in arguments.threads:
        cv2.setNumThreads(threads)
        torch.set_num_threads(threads)
        for name, drawn in (("motion alone", None), (f"with {arguments.size} px", renderer)):
            chosen = {"name": arguments.model, "look_ahead": arguments.look_ahead}
            measure(motion_stream(**chosen), waveform[:32000], drawn)
            heard, first, frames, spent, cpu = measure(motion_stream(**chosen), waveform, drawn)
            sys.stdout.write(
                f"{threads} thread(s), {name:12s}: first frame {heard + first:.3f} s ({heard:.3f} s of sound, "
                f"{first:.3f} s of compute); {frames / spent:5.1f} frames/s; "
                f"CPU {1000 * cpu / frames:.1f} ms a frame; load {os.getloadavg()[0]:.1f}\n"
            )


if __name__ == "__main__":
    main()
