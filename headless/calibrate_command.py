"""`talking-portrait calibrate`: fits retargeting to what LivePortrait makes of it on this computer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.host import host
from ..runtime.weights import fetch_weight, find_weight

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.face.landmarker import FaceLandmarker
    from ..core_models.motion.retargeting_calibration import RendererResponse
    from ..core_models.types import Portrait, RendererModels

FACE_BUNDLE = "face_landmarker"


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--portrait", metavar="P", required=True, help="picture file; a frontal, neutral face is best"
    )
    parser.add_argument("--out", metavar="X.json", default="retargeting.json", help="default: %(default)s")
    parser.add_argument(
        "--amplitude", type=float, default=0.5, help="how far each movement is pushed (default 0.5)"
    )
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--download", action="store_true", help="fetch LivePortrait and the face detector if missing"
    )
    parser.set_defaults(command=calibrate_command)


def calibrate_command(arguments: argparse.Namespace) -> int:
    """Measure, fit, save, and write the file's path to stdout.

    Every movement of the default basis and of the expression editor is rendered on the portrait both ways with the
    weights found here, and read again with the face detector.
    """
    from ..core_models.face.landmarker import FaceLandmarker
    from ..core_models.motion.blendshape_retargeting import default_basis
    from ..core_models.motion.retargeting_calibration import calibrated_basis, save_basis
    from ..runtime.renderer_models import liveportrait_models
    from ..weights_manifest.checksums import file_sha256

    models = liveportrait_models(
        precision=arguments.precision, download=arguments.download, progress=host().progress(1).update
    )
    bundle = fetch_weight(FACE_BUNDLE) if arguments.download else find_weight(FACE_BUNDLE)
    landmarker = FaceLandmarker(bundle)
    response = measured_response(
        read_portrait_file(Path(arguments.portrait), landmarker), landmarker, models, arguments.amplitude
    )
    basis = calibrated_basis(
        default_basis(),
        response,
        weights_sha256=file_sha256(Path(models.frame_generator.path)),
        portrait=Path(arguments.portrait).name,
    )
    save_basis(basis, Path(arguments.out))
    sys.stdout.write(f"{arguments.out}\n")
    return 0


def read_portrait_file(path: Path, landmarker: FaceLandmarker) -> Portrait:
    """Return the portrait in a picture file. Raises OSError, and ValueError when there is no clear face."""
    from ..core_models.face.picture import load_picture
    from ..core_models.face.portrait import portrait_from_frame

    return portrait_from_frame(load_picture(path), landmarker)


def measured_response(
    portrait: Portrait, landmarker: FaceLandmarker, models: RendererModels, amplitude: float
) -> RendererResponse:
    """Return the response of LivePortrait's networks to every direction worth asking about."""
    from ..core_models.motion.blendshape_retargeting import default_basis
    from ..core_models.motion.retargeting_calibration import calibration_directions, measure_response
    from ..core_models.rendering.liveportrait.keypoint_renderer import (
        KeypointRenderer,
        KeypointRendererParameters,
    )
    from ..core_models.types import IMPLICIT_KEYPOINTS, FaceMotion
    from ..runtime.renderer_models import keypoint_networks

    with keypoint_networks(models) as networks:
        renderer = KeypointRenderer(portrait, networks, KeypointRendererParameters(paste_back=False))

        def render(offsets: np.ndarray) -> Iterator[np.ndarray]:
            still = FaceMotion.at_rest(len(offsets), 25.0, IMPLICIT_KEYPOINTS)
            progress = host().progress(len(offsets)).update
            return renderer.frames(replace(still, expression=offsets), progress)

        def read(frame: np.ndarray) -> np.ndarray | None:
            faces = landmarker.detect(frame, search_tiles=False)
            return faces[0].blendshapes if faces else None

        return measure_response(render, read, calibration_directions(default_basis()), amplitude)
