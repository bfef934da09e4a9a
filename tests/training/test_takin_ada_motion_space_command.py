"""`talking-portrait train takin-ada motion-space`: from made heads to a weight file, going on, and what it refuses."""

from typing import NamedTuple

import pytest
from talking_portrait.core_models.motion.keypoint_transform import KeypointTransform
from talking_portrait.core_models.rendering.motion_space import (
    MotionSpaceParameters,
    load_motion_space,
    published_motion_space,
    small_motion_space,
)
from talking_portrait.headless import train_takin_ada_command as command
from talking_portrait.headless.command_line import main
from talking_portrait.training import takin_ada_frame_sources as sources
from talking_portrait.training.takin_ada_frames import frames_digest, read_frames
from talking_portrait.training.takin_ada_motion_space import frame_size
from talking_portrait.training.takin_ada_motion_space_recipe import (
    SMALL_WEIGHTS,
    MotionSpaceTrainingParameters,
    small_training_recipe,
)


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
    for other, message in (
        (["--transform", "liveportrait"], "--transform liveportrait (it is without_scale)"),
        (["--guided", *map(str, range(11, 21))], "--guided (11, 12"),
        (["--start-from", str(tmp_path)], "leave out --start-from"),
        (["--vgg19", str(tmp_path / "vgg19.pth")], "vgg19.pth"),
    ):
        assert main([*arguments, "--resume", *other]) == 1
        assert message in capsys.readouterr().err


def test_a_second_leg_begins_with_the_weights_of_the_first(tmp_path, capsys):
    frames, first = tmp_path / "frames.safetensors", tmp_path / "first"
    arguments = ["train", "takin-ada", "motion-space", "--frames", str(frames), "--threads", "1"]
    made = ["--identities", "1", "--clips", "1", "--clip-frames", "3"]
    small = ["--small", *made, "--batch", "2"]
    assert main([*arguments, *small, "--out", str(first), "--steps", "1"]) == 0
    weights = first / "motion_space.safetensors"
    leg = [
        *arguments,
        "--batch",
        "2",
        "--start-from",
        str(weights),
        "--steps",
        "1",
        "--learning-rate",
        "1e-9",
    ]
    assert main([*leg, "--small", "--out", str(tmp_path / "second")]) == 0
    before, after = (
        load_motion_space(folder / "motion_space.safetensors") for folder in (first, tmp_path / "second")
    )
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-6
    assert main([*leg, "--small", "--transform", "liveportrait", "--out", str(tmp_path / "third")]) == 1
    assert "has other sizes than this run" in capsys.readouterr().err
    assert command.training_recipe(options("--start-from", str(weights))).guided == tuple(range(10))


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


def test_training_that_begins_with_liveportrait_guides_its_last_keypoints():
    assert command.training_recipe(options()).guided == tuple(range(10))
    assert command.training_recipe(options("--start-from", "folder")).guided == tuple(range(11, 21))
    chosen = [str(index) for index in range(5, 15)]
    given = command.training_recipe(options("--start-from", "folder", "--guided", *chosen))
    assert given.guided == tuple(range(5, 15))
    with pytest.raises(ValueError, match="expected 10 different keypoints"):
        command.training_recipe(options("--guided", "1", "2"))


def test_ramp_and_pyramid_can_be_chosen():
    recipe = command.training_recipe(options("--adversarial-ramp-steps", "50", "--pyramid-levels", "2"))
    assert (recipe.adversarial_ramp_steps, recipe.pyramid_levels) == (50, 2)


class Checkpoint(NamedTuple):
    parameters: MotionSpaceParameters
    recipe: MotionSpaceTrainingParameters


def test_a_run_of_other_sizes_does_not_go_on():
    checkpoint = Checkpoint(published_motion_space(), MotionSpaceTrainingParameters())
    command.require_same_run(checkpoint, options("--resume"))
    with pytest.raises(ValueError, match=r"--small \(its pictures have 256 px\)"):
        command.require_same_run(checkpoint, options("--resume", "--small"))
    small = Checkpoint(small_motion_space(), small_training_recipe())
    command.require_same_run(small, options("--resume", "--small"))


def test_a_run_that_goes_on_makes_frames_of_its_own_size_and_seed(tmp_path):
    frames, run = tmp_path / "frames.safetensors", tmp_path / "run"
    arguments = ["train", "takin-ada", "motion-space", "--frames", str(frames), "--out", str(run)]
    made = ["--identities", "1", "--clips", "1", "--clip-frames", "2"]
    begin = ["--small", "--seed", "3", "--steps", "2", "--batch", "1", "--until", "1", "--threads", "1"]
    assert main([*arguments, *made, *begin]) == 0
    before = read_frames(frames)
    kept = (before.size, frames_digest(before))
    del before
    frames.unlink()
    assert main([*arguments, *made, "--resume", "--threads", "1"]) == 0
    again = read_frames(frames)
    assert (again.size, frames_digest(again)) == kept
    assert again.size == 64


def no_frames(*_arguments, **_named):
    raise AssertionError("frames were made before everything else was checked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--small", "--start-from", "."], "leave out --small"),
        (["--start-from", "."], "holds neither appearance_feature_extractor"),
        (["--small", "--vgg19", "no_file.pth"], "no_file.pth"),
        (["--small", "--minutes", "0"], "minutes is 0"),
        (["--small", "--device", "nowhere"], "is not a torch device"),
        (["--small", "--device", "xpu"], "there is no device xpu here"),
        (["--small", "--checkpoint-every", "0"], "checkpoint_every is 0"),
        (["--small", "--guided", *map(str, range(12, 22))], "keypoints 0 to 20"),
        (["--small", "--adversarial-weight", "-1"], "adversarial is -1"),
        (["--small", "--pyramid-levels", "9"], "pyramid_levels is 9"),
    ],
)
def test_everything_cheap_is_checked_before_frames_are_made(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "made_frames", no_frames)
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", "takin-ada", "motion-space", "--out", "run", "--frames", "f.safetensors", *arguments])
        == 1
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f.safetensors").exists()


def test_published_sizes_without_vgg_give_a_warning(caplog):
    assert command._features(options(), "cpu", small_motion_space()) is None
    assert not caplog.text
    assert command._features(options(), "cpu", published_motion_space()) is None
    assert "without --vgg19" in caplog.text


def test_published_sizes_get_made_heads(tmp_path):
    made = [
        "--identities",
        "1",
        "--clips",
        "1",
        "--clip-frames",
        "2",
        "--frames",
        str(tmp_path / "f.safetensors"),
    ]
    chosen = options(*made)
    frames = command.training_frames(chosen, frame_size(command._sizes(chosen)), 0)
    assert (frames.size, len(frames)) == (512, 2)
