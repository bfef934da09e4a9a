"""FantasyTalking on a Wan of a real ComfyUI: the release's numbers, core's own sampling, and what it must leave alone.

Needs COMFYUI_DIR, a checkout of ComfyUI. COMFYUI_PYTHON names the interpreter that has ComfyUI's requirements
(default: this one). One program runs all checks there; see tests/comfyui/wan_checks.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "comfyui" / "wan_checks.py"
TIME_LIMIT = 900
"""Seconds for all checks; they take about 15 on a free core."""

ATTENTION_TOLERANCE, NETWORK_TOLERANCE, LOOP_TOLERANCE = 1e-5, 1e-4, 1e-3
"""Of the golden cases."""
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory, golden_folder):
    """What every check found, by its name."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip(
            "COMFYUI_DIR is not set: point it to a checkout of ComfyUI to try FantasyTalking on its Wan"
        )
    if not (golden_folder / "fantasytalking" / "dit.json").is_file():
        pytest.skip(f"no cases of FantasyTalking in {golden_folder}")
    result = tmp_path_factory.mktemp("wan") / "found.json"
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    run = subprocess.run(
        [python, str(PROGRAM), folder, str(ROOT), str(golden_folder), str(result)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    if not result.is_file():
        pytest.fail(f"the checks ended early:\n{run.stderr[-3000:]}")
    return json.loads(result.read_text())


@pytest.fixture
def of(found):
    """Gives what one check found; fails with its traceback where it broke."""

    def look(name):
        if "error" in found[name]:
            pytest.fail(found[name]["error"])
        return found[name]

    return look


def test_the_cross_attention_is_the_releases(of):
    check = of("attention_of_the_release")
    assert check["cases"] == 8
    assert check["difference"] <= ATTENTION_TOLERANCE


def test_the_whole_network_is_the_releases(of):
    check = of("network_of_the_release")
    assert check["cases"] == 10
    assert check["difference"] <= NETWORK_TOLERANCE


def test_elements_of_a_batch_hear_as_their_streams_do(of):
    check = of("batched_elements")
    assert check["difference"] <= NETWORK_TOLERANCE
    assert check["in_pairs"] <= ROUNDING


def test_cores_sampling_with_our_guider_and_sigmas_is_the_releases_loop(of):
    check = of("guidance_of_the_release")
    assert check["noise"] == 0
    assert check["difference"] <= LOOP_TOLERANCE


def test_streams_that_weigh_nothing_are_not_computed(of):
    four_steps = {"three": 12, "equal": 8, "prompt_off": 8, "both_off": 4, "no_audio_guidance": 8}
    assert of("evaluations") == four_steps | {"half_the_audio": 10, "no_sound": 8}


def test_the_given_model_is_as_it_was(of):
    check = of("unchanged_afterwards")
    assert check["was_patched"]
    assert check["sound_mattered"] > 0.1
    assert all(check[name] for name in ("same", "weights", "own_method", "patched_again"))


def test_a_lora_works_before_and_after_it(of):
    check = of("with_lora")
    assert check["mattered"] > 0.1
    assert check["difference"] <= ROUNDING
    assert check["finite"]
    assert check["weights"]


def test_context_windows_hear_their_own_frames(of):
    check = of("in_context_windows")
    assert check["windows"] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert check["own_sound"]
    assert check["evaluations"] == 3 * 3
    assert check["finite"]
    assert check["frames"] == 7


def test_easy_cache_keeps_the_streams_apart(of):
    check = of("with_easy_cache")
    assert check["computed"] < 8 * 3, "nothing was left out"
    assert check["conditions"] == 3
    assert check["finite"]


def test_the_nodes_do_what_their_parts_do(of):
    check = of("as_nodes")
    assert (check["frames"], check["fps"], check["source"]) == (9, 23.0, "fantasytalking_model.ckpt")
    assert check["sigmas"] == pytest.approx([1.0, 10 / 11, 5 / 7, 0.0])
    assert check["difference"] == 0


@pytest.mark.parametrize("name", ["core_chooses", "float8"])
def test_a_model_of_cores_loader_hears(of, name):
    check = of("through_the_loader")[name]
    assert check["weights"] == "torch.float8_e4m3fn" or name != "float8"
    assert check["finite"]
    assert check["sound_mattered"] > 0.1


def test_a_branch_that_is_loaded_in_part_gives_the_same(of):
    assert of("loaded_in_part")["same"]


REFUSALS = {
    "not_wan": "is a Linear, not a Wan",
    "text_to_video": "text-to-video",
    "blocks": "2 blocks of width 128, the audio weights fit 3 of width 128",
    "width": "2 blocks of width 128, the audio weights fit 2 of width 64",
    "twice": "hears a sound already",
    "other_forward": "another node has replaced diffusion_model.blocks.1.cross_attn.forward",
    "other_block": "another node has replaced diffusion_model.blocks.0 ",
    "other_method": "something else has replaced diffusion_model.blocks.1.cross_attn.forward",
    "replaced_later": "another node after FantasyTalking for Wan",
    "other_length": "hold 4 frames (13 of video), but the sound was prepared for 3 (9 of video)",
    "unknown_frames": "2 latent frames of 3 and nothing says which",
    "guider_without_sound": "hears no sound",
    "past_the_wrappers": "past ComfyUI's wrappers",
    "reference_frames": "96 tokens of video, expected 3 x 24",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused(of, name):
    assert REFUSALS[name] in of("refusals")[name]


def test_cancel_ends_it_within_a_step(of):
    check = of("interrupted")
    assert check["message"].startswith("InterruptProcessingException")
    assert check["evaluations"] == 1
    assert check["same_again"]


def test_memory_is_given_back(of):
    check = of("memory_given_back")
    assert "SoundBranch" in check["managed"], "ComfyUI does not manage the sound's weights"
    assert check["shared"]
    assert check["sound_gone"]
    assert check["network_gone"]
    assert check["still_loaded"] == 0


def test_without_our_guider_every_pass_hears(of):
    assert of("ordinary_sampler")["difference"] <= ROUNDING


def test_weights_in_half_precision_serve_a_model_in_another(of):
    assert 0 < of("in_half_precision")["difference"] < 0.01


@pytest.mark.parametrize("sampler", ["heun", "uni_pc", "dpmpp_2m"])
def test_other_samplers_run(of, sampler):
    assert of("other_samplers")[sampler]
