"""KDTalker's sampling and its whole motion path against numbers of the released code, at the published size."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.embedding import WAV2LIP
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTALKER_FPS, KDTalkerModel
from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import (
    REPEAT,
    KDTalkerSamplingParameters,
    motion_of_portrait,
    padded_features,
    sample_readings,
    sample_scores,
)
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
    MotionStatistics,
    motion_vectors,
    read_statistics,
)
from talking_portrait.core_models.motion.keypoint_driving import moved_readings
from talking_portrait.core_models.motion.keypoint_geometry import (
    KEYPOINT_COUNT,
    KeypointReadings,
    degrees_from_bins,
    extractor_rotation,
)
from talking_portrait.core_models.types import AudioEmbedding

SYSTEM = "liveportrait_kdtalker"
ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = Path(os.environ.get("TALKING_PORTRAIT_GOLDEN", ROOT / "tests" / "golden"))
KEY_PREFIX = "point_model.model."
TOLERANCE = 1e-3  # of the output's deviation, after 50 steps; on keypoints of another processor


def cases(pattern):
    found = sorted(path.stem for path in (GOLDEN / SYSTEM).glob(f"{pattern}.json"))
    missing = pytest.param(pattern, marks=pytest.mark.skip(reason=f"no {pattern}.json in {GOLDEN / SYSTEM}"))
    return found or [missing]


@pytest.fixture(scope="module")
def denoiser_with(liveportrait_cases, liveportrait_tools):
    """Function of a case's weights: the denoiser filled with them; kept while they are the same."""
    shapes = json.loads((liveportrait_cases / "state_dict_kdtalker.json").read_text())
    kept = {}

    def make(weights):
        key = (weights["gain"], *weights["rules"])
        if key not in kept:
            kept.clear()
            state = liveportrait_tools.state_dict_for(shapes, weights["gain"], weights["rules"])
            with torch.device("meta"):
                denoiser = Denoiser(DenoiserParameters())
            denoiser.load_state_dict(
                {name.removeprefix(KEY_PREFIX): value for name, value in state.items()}, assign=True
            )
            kept[key] = denoiser.eval().requires_grad_(False)
        return kept[key]

    return make


@pytest.fixture(scope="module")
def published_statistics(liveportrait_cases):
    """KDTalker's norm.npz (CC BY-NC 4.0, so not in the repository): beside the cases, or beside the shared ones."""
    for folder in (liveportrait_cases, ROOT.parent / "shared" / "golden" / SYSTEM):
        if (folder / "norm.npz").is_file():
            return read_statistics(folder / "norm.npz")
    pytest.skip(f"KDTalker's norm.npz is not beside the cases in {liveportrait_cases}")


def model_of(denoiser, statistics) -> KDTalkerModel:
    with torch.device("meta"):
        model = KDTalkerModel(denoiser.parameters_used, statistics)
    model.denoiser = denoiser
    return model


def unit_statistics() -> MotionStatistics:
    return MotionStatistics(np.zeros(70), np.ones(70), np.zeros(63), np.ones(63))


def read_case(folder, tools, name):
    case = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    return case, arrays, {spec["arg"]: tools.make_input(spec) for spec in case["inputs"]}


def assert_agrees(case, arrays, tools, name, value, tolerance=TOLERANCE):
    assert list(value.shape) == case["outputs"][name]["shape"]
    found = tools.sample(value, case["outputs"][name]["stride"])
    assert np.abs(found - arrays[name]).max() <= tolerance * case["outputs"][name]["std"], name


@pytest.mark.parametrize("name", cases("kd_sample_ddim*"))
def test_sampling_matches_the_release(name, liveportrait_cases, liveportrait_tools, denoiser_with):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    model = model_of(denoiser_with(case["weights"]), unit_statistics())
    canonical = inputs["ori_kps"][0].clone()
    canonical[:7] = 0
    spacing = case["scheduler_config"]["timestep_spacing"]
    motion = sample_scores(
        model,
        (canonical, inputs["ref_kps"][0]),
        inputs["aud_feat"][0],
        [0],
        inputs["noise"][..., 0],
        KDTalkerSamplingParameters(steps=case["steps"], spacing=spacing, overlap=0),
    )
    assert_agrees(case, arrays, liveportrait_tools, "motion", motion.numpy())


@pytest.fixture
def motion_path(liveportrait_cases, liveportrait_tools, denoiser_with, published_statistics):
    """Function of a case's name: the case, its arrays, model, source reading, speech, noise and parameters."""

    def make(name):
        case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
        statistics = published_statistics
        features, frames = inputs["aud_feat"], len(inputs["aud_feat"])
        parameters = KDTalkerSamplingParameters(
            steps=case["constructor"]["steps"],
            overlap=0,
            audio_padding=REPEAT,
            mode="relative" if case["constructor"]["flag_relative_motion"] else "absolute",
        )
        return (
            case,
            arrays,
            model_of(denoiser_with(case["weights"]), statistics),
            source_reading(inputs, statistics),
            AudioEmbedding(features[:, None], float(KDTALKER_FPS), frames / KDTALKER_FPS, WAV2LIP),
            inputs["noise"][:, 0, :, :, 0].flatten(0, 1)[None, : 64 * -(-frames // 64)],
            parameters,
        )

    return make


def source_reading(inputs, statistics) -> KeypointReadings:
    """The motion extractor's output that the case describes: mean + half a deviation times the input."""
    numbers = {key: value.double().numpy() for key, value in inputs.items()}
    mean, half = statistics.motion_mean, 0.5 * statistics.motion_std
    angles = [degrees_from_bins(numbers[f"{name}_logits"]) for name in ("pitch", "yaw", "roll")]
    translation = mean[4:7] + half[4:7] * numbers["t_n"]
    canonical = statistics.canonical_mean + 0.5 * statistics.canonical_std * numbers["kp_n"]
    return KeypointReadings(
        canonical=canonical.reshape(1, KEYPOINT_COUNT, 3),
        expression=(mean[7:] + half[7:] * numbers["exp_n"]).reshape(1, KEYPOINT_COUNT, 3),
        rotation=extractor_rotation(np.stack(angles, axis=-1)),
        translation=translation * np.array([1, 1, 0]),
        scale=numbers["scale"].reshape(1),
    )


@pytest.mark.parametrize("name", cases("kd_motion_path*"))
def test_chained_windows_match_the_release(name, motion_path, liveportrait_tools):
    case, arrays, model, source, speech, noise, parameters = motion_path(name)
    tokens = (
        torch.from_numpy(model.statistics.canonical_token(source.canonical)).float(),
        torch.from_numpy(model.statistics.normalised(motion_vectors(source))[0]).float(),
    )
    frames, padded = len(speech.features), noise.shape[1]
    features = padded_features(speech, frames, padded, parameters.audio_padding)
    scores = sample_scores(model, tokens, features, list(range(0, padded, 64)), noise, parameters)
    assert_agrees(case, arrays, liveportrait_tools, "windows_normalised", scores.numpy())


@pytest.mark.parametrize("name", cases("kd_motion_path*"))
def test_what_is_drawn_matches_the_release(name, motion_path, liveportrait_tools):
    case, arrays, model, source, speech, noise, parameters = motion_path(name)
    (made,) = sample_readings(model, source, speech, parameters, noise=noise)
    drawn = moved_readings(source, motion_of_portrait(source, made, parameters.mode))
    assert drawn.frame_count == int(arrays["num_output_frames"][0])
    assert_agrees(case, arrays, liveportrait_tools, "x_s", source.keypoints)
    assert_agrees(case, arrays, liveportrait_tools, "x_d", drawn.keypoints)
