"""The shipped workflows run with nothing uploaded. What they are as files is tested in tests/workflows."""

import wave
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.core_models.audio.frame_clock import exact_rate, sample_count

from .shipped_workflows import RUNNABLE, api_form, ui_form

NEED_DETECTOR = ("combined", "video_edit", "motion_only", "kdtalker_audio_only", "kdtalker_driven_pose")
SILENT = ("expression_edit", "motion_only", "actalker_motion")
FANTASYTALKING = ("fantasytalking_audio", "fantasytalking_intensity", "fantasytalking_long")
ACTALKER = ("actalker_audio", "actalker_motion", "actalker_combined", "actalker_gates")
WHOLE_SPEECH = ("fantasytalking_intensity", "fantasytalking_long")
"""Those whose length is what their tests look at."""

SPEECH_SECONDS, ACTALKER_SECONDS, FANTASYTALKING_SECONDS, FEW_STEPS = 2.0, 0.5, 0.7, 2
"""Of what the tests run: the wires and the lengths are what they look at."""
USE_RENDERER = (
    *("combined", "expression_edit", "video_edit", "motion_only"),
    *("kdtalker_audio_only", "kdtalker_driven_pose"),
)
"""Those in which LivePortrait can be chosen in place of the mesh."""

SMALL_MODELS = {
    **dict.fromkeys(ACTALKER, "actalker_pocket"),
    **dict.fromkeys(FANTASYTALKING, "fantasytalking_pocket"),
}
"""Workflow -> the embedded model that it needs."""

each_runnable = pytest.mark.parametrize("name", RUNNABLE)


def speech_seconds(name: str) -> float:
    """How much of the demo speech a workflow hears in these tests."""
    if name in WHOLE_SPEECH:
        return float("inf")
    if name in ACTALKER:
        return ACTALKER_SECONDS
    return FANTASYTALKING_SECONDS if name in FANTASYTALKING else SPEECH_SECONDS


def shorten_speech(seconds: float, patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the demo speech be its beginning."""
    from talking_portrait.core_models.audio.decode import decode_sound
    from talking_portrait.runtime import input_files

    sound = decode_sound(input_files.DEMO_SPEECH_FILE)
    count = round(min(seconds * sound.sample_rate, sound.waveform.shape[1]))
    with wave.open(str(folder / "short.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.sample_rate)
        file.writeframes(np.round(sound.waveform[0, :count] * 32767).astype("<i2").tobytes())
    patch.setattr(input_files, "DEMO_SPEECH_FILE", folder / "short.wav")


def fewer_steps(graph: dict, name: str) -> None:
    """Let the video models take few steps; ACTalker's motion is as long as its speech."""
    if name in ACTALKER:
        graph["30"]["inputs"]["steps"] = FEW_STEPS
        if "19" in graph:
            graph["19"]["inputs"]["duration"] = ACTALKER_SECONDS
    if name in FANTASYTALKING:
        graph["38"]["inputs"]["steps"] = FEW_STEPS


def output_of(report, link: list):
    """The first value of what a link gives."""
    node_id, slot = link
    return report.values[node_id][slot][0]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, request):
    """Runs a workflow in this process, once for all tests: (its report, the path of its video)."""
    from talking_portrait.core_models.keypoint_diffusion.loading import EMBEDDED_POCKET
    from talking_portrait.headless.executor import GraphExecutor
    from talking_portrait.headless.registry import node_classes
    from talking_portrait.runtime.host import host

    runs: dict[str, tuple] = {}

    def run(name: str) -> tuple:
        if name not in SILENT and not EMBEDDED_POCKET.is_file():
            pytest.skip("the pocket model has not been trained yet")
        model = SMALL_MODELS.get(name)
        if model is not None and not EMBEDDED_POCKET.with_name(f"{model}.safetensors").is_file():
            pytest.skip(f"{model} has not been trained yet")
        bundle = request.getfixturevalue("face_bundle") if name in NEED_DETECTOR else None
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            graph = api_form(name)
            for node_id in {"3", "11"} & set(graph):
                graph[node_id]["inputs"]["largest_side"] = 192
            with pytest.MonkeyPatch.context() as patch, host().using_folders(folder, folder, folder):
                patch.setenv("TALKING_PORTRAIT_MODELS", str(bundle.parent) if bundle else "")
                shorten_speech(speech_seconds(name), patch, folder)
                fewer_steps(graph, name)
                report = GraphExecutor(node_classes()).run(graph, ui_form(name))
            (saved,) = report.ui["10"]["images"]
            runs[name] = report, folder / saved["subfolder"] / saved["filename"]
        return runs[name]

    return run


@each_runnable
def test_runs_with_nothing_uploaded(name, finished_run):
    """The whole line, and that frames, rate and sound agree exactly: on the wires and in the file."""
    from talking_portrait.core_models.media_container import open_media
    from talking_portrait.core_models.video_file import read_video_frames
    from talking_portrait.headless.workflow_files import read_workflow_file

    report, path = finished_run(name)
    created = api_form(name)["9"]["inputs"]
    frames, fps = output_of(report, created["images"]), output_of(report, created["fps"])
    audio = output_of(report, created["audio"]) if "audio" in created else None
    assert float(frames.diff(dim=0).abs().max()) > 0.1, "nothing moves"
    assert sum(1 for _ in read_video_frames(path)) == len(frames)
    assert exact_rate(read_video_frames(path).fps) == exact_rate(fps)
    carried = read_workflow_file(path)
    assert carried.page == ui_form(name)
    assert {key: node["class_type"] for key, node in carried.api.items()} == {
        key: node["class_type"] for key, node in api_form(name).items()
    }
    if name in SILENT:
        assert audio is None
        return
    assert audio["waveform"].shape[2] == sample_count(len(frames), fps, audio["sample_rate"])
    with open_media(path) as container:
        (stream,) = container.streams.audio
        seconds = float(stream.duration * stream.time_base)
        assert round(seconds * stream.sample_rate) == sample_count(len(frames), fps, stream.sample_rate)


def test_the_grid_says_the_same_words_in_every_emotion(finished_run):
    report, _ = finished_run("emotion_grid")
    (motions,) = report.values["7"]
    (_, labels) = report.values["23"]
    assert len(motions) == len(labels) == 6
    jaws = [motion.blendshape("jawOpen") for motion in motions]
    assert min(np.corrcoef(jaws[0], jaw)[0, 1] for jaw in jaws) > 0.9
    means = np.stack([motion.expression.mean(axis=0) for motion in motions])
    apart = np.abs(means[:, None] - means[None]).max(axis=2)
    assert apart[~np.eye(6, dtype=bool)].min() > 0.1, "every two emotions look different"
    ((grid,), _, _), (clips, _, _) = report.values["24"], report.values["8"]
    height, width = clips[0].shape[1:3]
    assert grid.shape[1:3] == (2 * height + 4, 3 * width + 8)


def test_combined_takes_each_part_from_its_own_source(finished_run):
    values = finished_run("combined")[0].values
    spoken, driven, mixed = (values[node_id][0][0] for node_id in ("7", "13", "14"))
    count = min(spoken.frame_count, driven.frame_count) - 6  # a shorter video hands over at its end
    for name in ("jawOpen", "mouthFunnel"):
        np.testing.assert_array_equal(mixed.blendshape(name), spoken.blendshape(name))
    np.testing.assert_allclose(mixed.rotation[:count], driven.rotation[:count], atol=0.01)
    np.testing.assert_allclose(
        mixed.blendshape("eyeBlinkLeft")[:count], driven.blendshape("eyeBlinkLeft")[:count], atol=1e-5
    )
    assert driven.rotation[:, 1].std() > 2, "the demo's driver turns the head"


def test_emotion_changes_what_is_spoken(finished_run):
    plain, moved = (finished_run(name)[0].values["7"][0][0] for name in ("audio_only", "emotion"))
    smile = [motion.blendshape("mouthSmileLeft")[5:30].mean() for motion in (plain, moved)]
    assert smile[1] > smile[0] + 0.05  # its first keyframe is happy


@pytest.mark.parametrize("name", USE_RENDERER)
def test_liveportrait_chosen_and_missing_says_how_to_get_it(name, tmp_path, monkeypatch, request):
    """The graph is valid; running it ends with the command that fetches the files, and with no file written."""
    from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
    from talking_portrait.headless.registry import node_classes
    from talking_portrait.headless.validation import validate_graph
    from talking_portrait.runtime.host import host
    from talking_portrait.runtime.weights import WeightNotFoundError

    graph = api_form(name)
    (loader,) = [node for node in graph.values() if node["class_type"] == "TP_LoadLivePortrait"]
    loader["inputs"]["model"] = "LivePortrait"
    validate_graph(graph, node_classes()).raise_if_failed(graph)
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    bundle = request.getfixturevalue("face_bundle") if name in NEED_DETECTOR else None
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(bundle.parent) if bundle else "")
    here = host().using_folders(tmp_path, tmp_path / "output", tmp_path)
    with here, pytest.raises(NodeFailedError, match="Load LivePortrait") as failure:
        GraphExecutor(node_classes()).run(graph, ui_form(name))
    missing = failure.value.__cause__
    assert isinstance(missing, WeightNotFoundError)
    assert "talking-portrait weights fetch liveportrait" in str(missing)
    assert "warping_module" in str(missing)
    assert not list(tmp_path.rglob("*.mp4"))


def test_the_film_keeps_everything_but_the_mouth(finished_run):
    """Lips follow the new words; outside the lower face the film stays as it was filmed."""
    report, _ = finished_run("video_edit")
    ((frames,), _, _) = report.values["8"]
    ((film,), _) = report.values["20"]
    rows = film.rows(len(frames))
    shares = []
    for frame, row in zip(frames, rows, strict=True):
        portrait = film.portraits[row]
        changed = np.abs(frame.numpy() * 255 - portrait.frame).max(axis=2) > 1
        shares.append(changed.mean())
        if changed.any():
            assert np.flatnonzero(changed.any(axis=1))[0] > portrait.landmarks[[33, 263], 1].min(), (
                "eyes stay"
            )
    assert max(shares) > 0.01


def test_the_gates_are_four_clips_of_one_length(finished_run):
    report, _ = finished_run("actalker_gates")
    latents = [latent["samples"] for latent in report.values["30"][0]]
    assert report.values["34"][2] == [
        *("audio 1, motion 0", "audio 0, motion 1", "audio 1, motion 1", "audio 0.5, motion 1")
    ]
    assert len({len(one) for one in latents}) == 1
    assert len(latents) == 4
    for first in range(4):
        for second in range(first):
            assert float((latents[first] - latents[second]).abs().max()) > 0


def test_intensities_are_clips_of_one_length(finished_run):
    report, _ = finished_run("fantasytalking_intensity")
    latents = [latent["samples"] for latent in report.values["38"][0]]
    assert report.values["40"][1] == ["intensity 0.1", "intensity 0.5", "intensity 1"]
    chosen = [intensity.mean(1.0) for intensity in report.values["40"][0]]
    np.testing.assert_allclose(chosen, [(0.1, 0.1), (0.5, 0.5), (1, 1)], atol=1e-6)
    assert [tuple(one.shape) for one in latents] == [(1, 16, 10, 8, 8)] * 3
    assert report.values["38"][2] == [37] * 3


def test_the_long_clip_takes_several_windows(finished_run):
    from talking_portrait.core_models.video_diffusion.fantasytalking.long_windows import ledger
    from talking_portrait.core_models.video_diffusion.wan.frame_rules import latent_frames
    from talking_portrait.runtime.fantasytalking_models import parameters_of

    report, _ = finished_run("fantasytalking_long")
    inputs, defaults = (
        api_form("fantasytalking_long")["38"]["inputs"],
        parameters_of(report.values["36"][0][0]).defaults,
    )
    assert report.values["38"][2] == [88], "7 s at 12.5 frames per second, neither stretched nor cut"
    assert inputs["window"] == defaults.window
    latents = report.values["38"][0][0]["samples"].shape[2]
    assert latents == latent_frames(89)
    windows = ledger(latents, latent_frames(inputs["window"]), inputs["overlap"]).windows
    assert len(windows) > 2
