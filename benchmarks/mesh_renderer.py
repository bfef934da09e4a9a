"""How fast the mesh renderer draws: milliseconds and frames per second, at several sizes.

    python benchmarks/mesh_renderer.py [--picture face.jpg --bundle face_landmarker.task] [--sizes 512 1024]

The time of CPU counts all threads together and hardly depends on what else the machine does.

Without a picture it animates scikit-image's public-domain astronaut, cropped to the face as a portrait would
be, with its landmarks found by the bundle. The motion moves everything in every frame: jaw, lips, lids, gaze,
brows and head.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def load_package() -> None:
    """Make this checkout importable as `talking_portrait` when the package is not installed."""
    if importlib.util.find_spec("talking_portrait") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "talking_portrait", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["talking_portrait"] = module
    spec.loader.exec_module(module)


def busy_motion(frame_count: int):
    """Return a motion in which every part of the face moves in every frame."""
    from talking_portrait.core_models.types import BLENDSHAPE_NAMES, FaceMotion

    time_axis = np.arange(frame_count)[:, None] / 25
    generator = np.random.default_rng(0)
    frequency = generator.uniform(0.5, 4.0, len(BLENDSHAPE_NAMES))
    phase = generator.uniform(0, 2 * np.pi, len(BLENDSHAPE_NAMES))
    expression = 0.2 + 0.2 * np.sin(2 * np.pi * frequency * time_axis + phase)
    head = np.sin(2 * np.pi * np.array([0.7, 0.5, 0.4]) * time_axis)
    return FaceMotion("blendshapes", 25.0, expression, 6.0 * head, 0.03 * head, np.ones(frame_count))


def square_portrait(picture: np.ndarray, landmarker, size: int):
    """Return the portrait in a square crop around its face, at `size` pixels."""
    import cv2
    from talking_portrait.core_models.face.pose import fit_head_pose
    from talking_portrait.core_models.types import Portrait

    face = landmarker.detect(picture)[0]
    centre, side = face.landmarks[:468, :2].mean(axis=0), 2.2 * max(face.box[2:])
    half = min(side / 2, *centre, *(np.array(picture.shape[1::-1]) - centre))
    left, top = (int(value) for value in centre - half)
    square = picture[top : top + int(2 * half), left : left + int(2 * half)]
    square = cv2.resize(square, (size, size), interpolation=cv2.INTER_CUBIC)
    face = landmarker.detect(square)[0]
    pose = fit_head_pose(face.landmarks)
    return Portrait(square, face.landmarks, face.blendshapes, pose, np.eye(2, 3))


def measure(portrait, interpolation: str, frame_count: int) -> np.ndarray:
    """Return (frame_count, 2) milliseconds per frame, by the clock and of CPU, after ten to warm up."""
    from talking_portrait.core_models.rendering.mesh import MeshRenderer, MeshRendererParameters

    renderer = MeshRenderer(portrait, MeshRendererParameters(interpolation=interpolation))
    motion = busy_motion(frame_count + 10)
    spent = []
    for index in range(motion.frame_count):
        start, cpu_start = time.perf_counter(), time.process_time()
        renderer.render(motion, index)
        spent.append((time.perf_counter() - start, time.process_time() - cpu_start))
    return 1000 * np.array(spent[10:])


def main() -> None:
    """Print a line per size and interpolation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="a portrait; default the astronaut")
    parser.add_argument("--bundle", type=Path, default=ROOT.parent / "shared/data/face_landmarker.task")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    load_package()
    import cv2
    from talking_portrait.core_models.face.landmarker import FaceLandmarker

    cv2.setNumThreads(arguments.threads)
    if arguments.picture is None:
        from skimage.data import astronaut

        picture = astronaut()
    else:
        picture = np.ascontiguousarray(cv2.imread(str(arguments.picture))[..., ::-1])
    landmarker = FaceLandmarker(arguments.bundle)
    load = os.getloadavg()[0]
    sys.stdout.write(f"{arguments.threads} threads, load average {load:.1f}, {arguments.frames} frames\n")
    for size in arguments.sizes:
        portrait = square_portrait(picture, landmarker, size)
        for interpolation in ("cubic", "linear"):
            clock, cpu = measure(portrait, interpolation, arguments.frames).T
            sys.stdout.write(
                f"{size:5d} px {interpolation:6s}: median {np.median(clock):5.1f} ms, 90 % below "
                f"{np.percentile(clock, 90):5.1f} ms, {1000 / np.median(clock):4.0f} frames/s; "
                f"CPU {np.median(cpu):5.1f} ms a frame\n"
            )


if __name__ == "__main__":
    main()
