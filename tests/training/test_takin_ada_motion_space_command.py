"""`talking-portrait train takin-ada motion-space`: from made heads to a weight file, going on, and what it refuses."""

import pytest
from talking_portrait.core_models.motion.keypoint_transform import KeypointTransform
from talking_portrait.core_models.rendering.motion_space import load_motion_space, small_motion_space
from talking_portrait.headless import train_takin_ada_command as command
from talking_portrait.headless.command_line import main
from talking_portrait.training.takin_ada_frames import read_frames
from talking_portrait.training.takin_ada_motion_space import SMALL_WEIGHTS, small_training_recipe


def options(*arguments: str):
    return command.build_parser().parse_args(
        ["motion-space", "--out", "run", "--frames", "f.safetensors", *arguments]
    )


def test_trains_from_made_heads_and_goes_on(tmp_path, capsys):
    frames, run = tmp_path / "frames.safetensors", tmp_path / "run"
    arguments = ["train", "takin-ada", "motion-space", "--small", "--frames", str(frames), "--out", str(run)]
    made = ["--identities", "1", "--clips", "1", "--clip-frames", "3"]
    assert main([*arguments, *made, "--steps", "2", "--batch", "2", "--until", "1", "--threads", "1"]) == 0
    assert len(read_frames(frames)) == 3
    assert main([*arguments, "--resume", "--threads", "1"]) == 0
    path = run / "motion_space.safetensors"
    assert capsys.readouterr().out.splitlines() == [str(path)] * 2
    assert load_motion_space(path).parameters_used == small_motion_space()
    assert main([*arguments, "--steps", "2"]) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--landmark-weight", "0"]) == 1
    assert "--landmark-weight 0.0 (it is 200.0)" in capsys.readouterr().err


def test_options_change_the_recipe_and_nothing_else():
    assert command.training_recipe(options("--small")) == small_training_recipe()
    changed = command.training_recipe(
        options(
            "--small",
            "--canonical-weight",
            "0",
            "--penalty",
            "l1",
            "--seed",
            "7",
            "--canonical-ramp-steps",
            "5",
        )
    )
    assert changed.weights.canonical == 0
    assert changed.weights.canonical_ramp_steps == 5
    assert changed.weights.landmark == SMALL_WEIGHTS.landmark
    assert (changed.penalty, changed.seed, changed.batch) == ("l1", 7, small_training_recipe().batch)
    assert command.training_recipe(options()).adversarial


def test_bad_settings_are_refused_before_any_work():
    for arguments, message in (
        (["--steps", "0"], "steps is 0"),
        (["--penalty", "square"], "penalty is 'square'"),
        (["--deformation-weight", "-1"], "deformation is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            command.training_recipe(options(*arguments))


def test_the_transform_can_be_chosen():
    assert command._sizes(options("--small")).transform is KeypointTransform.WITHOUT_SCALE
    assert command._sizes(options("--transform", "liveportrait")).transform is KeypointTransform.LIVEPORTRAIT


def test_published_files_are_found_in_a_folder_or_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither appearance_feature_extractor\.safetensors nor"):
        command._published_files(tmp_path)
    for stem in ("appearance_feature_extractor", "motion_extractor", "warping_module", "spade_generator"):
        (tmp_path / f"{stem}.pth").touch()
    assert command._published_files(tmp_path)["warping"].name == "warping_module.pth"
    with pytest.raises(ValueError, match="leave out --small"):
        command._begun(options("--small", "--start-from", str(tmp_path)), 0)
