"""The denoiser against numbers of the released KDTalker code, at the published size."""

import json
from pathlib import Path

import numpy as np
import torch
from talking_portrait.core_models.keypoint_diffusion.denoiser import (
    Denoiser,
    DenoiserParameters,
    sinusoidal_embedding,
)
from talking_portrait.core_models.keypoint_diffusion.schedule import (
    alphas_cumprod,
    ddim_step,
    sampling_timesteps,
    split_prediction,
)

KEY_PREFIX = "point_model.model."
RELATIVE_TOLERANCE = 1e-4


def read_case(path: Path) -> tuple[dict, dict]:
    arrays = np.load(path.with_suffix(".npz"))
    return json.loads(path.read_text()), {name: arrays[name] for name in arrays.files}


def published_shapes(liveportrait_cases: Path) -> dict[str, list[int]]:
    return json.loads((liveportrait_cases / "state_dict_kdtalker.json").read_text())


def filled_denoiser(liveportrait_tools, liveportrait_cases: Path, weights: dict) -> Denoiser:
    state = liveportrait_tools.state_dict_for(
        published_shapes(liveportrait_cases), weights["gain"], weights["rules"]
    )
    denoiser = Denoiser(DenoiserParameters())
    denoiser.load_state_dict(
        {name.removeprefix(KEY_PREFIX): value for name, value in state.items()}, strict=True
    )
    return denoiser.eval()


def assert_agrees(tools, case: dict, arrays: dict, name: str, value: torch.Tensor, tolerance: float) -> None:
    found = tools.sample(value.numpy(), case["outputs"][name]["stride"])
    spread = max(float(arrays[name].std()), 1e-6)
    assert found.shape == arrays[name].shape
    assert np.abs(found - arrays[name]).max() <= tolerance * spread


def test_keys_and_shapes_are_those_of_the_published_file(liveportrait_cases):
    with torch.device("meta"):
        state = Denoiser(DenoiserParameters()).state_dict()
    assert {KEY_PREFIX + name: list(value.shape) for name, value in state.items()} == published_shapes(
        liveportrait_cases
    )


def test_forward_pass_matches_the_release(liveportrait_tools, liveportrait_cases):
    case, arrays = read_case(liveportrait_cases / "kd_denoiser.json")
    denoiser = filled_denoiser(liveportrait_tools, liveportrait_cases, case["weights"])
    tokens, context = (liveportrait_tools.make_input(spec) for spec in case["inputs"])
    context = context.clone()
    context[:, : denoiser.parameters_used.prefix_tokens] = 0
    timesteps = torch.tensor(case["timesteps"])
    with torch.no_grad():
        time = denoiser.time_mlp(sinusoidal_embedding(timesteps, denoiser.parameters_used.width))
        bias = denoiser.time_rel_pos_bias(tokens.shape[1], tokens.device)[0]
        out = denoiser(tokens, timesteps, context)
    for name, value in (("out", out), ("time_emb", time), ("rel_pos_bias", bias)):
        assert_agrees(liveportrait_tools, case, arrays, name, value, RELATIVE_TOLERANCE)


def test_ddim_sampling_matches_the_release(liveportrait_tools, liveportrait_cases):
    case, arrays = read_case(liveportrait_cases / "kd_sample_ddim5.json")
    denoiser = filled_denoiser(liveportrait_tools, liveportrait_cases, case["weights"])
    noise, reference, canonical, audio = (liveportrait_tools.make_input(spec) for spec in case["inputs"])
    canonical = canonical.clone()
    canonical[:, :7] = 0
    signal = alphas_cumprod(denoiser.parameters_used.schedule)
    timesteps = sampling_timesteps(case["steps"], case["scheduler_config"]["timestep_spacing"])
    assert_agrees(liveportrait_tools, case, arrays, "alphas_cumprod", signal, 1e-6)
    assert timesteps == arrays["timesteps"].tolist()
    x, prefix = noise[..., 0], torch.stack([canonical, reference], dim=1)
    context = torch.cat([audio.new_zeros(1, 2, audio.shape[2]), audio], dim=1)
    for index, (step, following) in enumerate(zip(timesteps, [*timesteps[1:], None], strict=True), start=1):
        with torch.no_grad():
            prediction = denoiser(torch.cat([prefix, x], dim=1), torch.tensor([step]), context)[:, 2:]
        x0, epsilon = split_prediction(prediction, x, signal[step], denoiser.parameters_used.prediction)
        x = x0 if following is None else ddim_step(x0, epsilon, signal[following])
        if f"after_step_{index}" in arrays:
            assert_agrees(liveportrait_tools, case, arrays, f"after_step_{index}", x, 1e-3)
    assert_agrees(liveportrait_tools, case, arrays, "motion", x, 1e-3)
