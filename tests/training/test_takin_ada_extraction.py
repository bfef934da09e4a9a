"""Clips for Takin-ADA out of videos, their labels, and the clips on disk that training reads. The networks are tiny."""

import json

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.hubert import Hubert, hidden_states
from talking_portrait.core_models.keypoint_diffusion.takin_ada import TakinADAParameters
from talking_portrait.core_models.types import EMOTION_NAMES
from talking_portrait.training.kdtalker_dataset import Clip, open_clip, write_clip
from talking_portrait.training.kdtalker_extraction import (
    ExtractionNetworks,
    ExtractionSettings,
    extract_clip,
    extract_dataset,
    heard_waveform,
)
from talking_portrait.training.takin_ada_extraction import TakinADAClips, read_labels
from talking_portrait.training.takin_ada_speech import (
    SpeechClip,
    TakinADASpeechTrainingParameters,
    batch_of,
    draw_batch,
    new_model,
    training_loss,
)
from talking_portrait.training.takin_ada_speech_dataset import (
    HeardClip,
    open_speech_clip,
    open_speech_clips,
    require_fitting_clips,
    write_speech_clip,
)
from talking_portrait.training.takin_ada_speech_run import TakinADASpeechTrainer

from ..audio.small_hubert import LAYERS, WIDTH, small_network
from ..keypoint_diffusion.takin_ada_models import SMALL, SMALL_KEYPOINTS, SMALL_LISTENING, SMALL_STREAMING
from .test_kdtalker_extraction import KnownFace, ReadsBrightness, noise, report, video

SHORT = ExtractionSettings(shortest=5)
FILES = ("anna/one.mp4", "two.mp4")


@pytest.fixture(scope="module")
def hubert():
    return Hubert(small_network(), normalises=True).eval().requires_grad_(False)


@pytest.fixture
def networks(hubert):
    return ExtractionNetworks(KnownFace(), ReadsBrightness(), hubert)


def clips_of(hubert, labels=None) -> TakinADAClips:
    return TakinADAClips(hubert, "small_hubert", labels or {})


def made_clip(name="a", frames=10, layers=3, width=8, heard_by="small", seed=0, emotion=None) -> HeardClip:
    rng = np.random.default_rng(seed)
    motion, canonical = (rng.normal(size=(frames, size)).astype(np.float32) for size in (70, 63))
    states = rng.normal(size=(2 * frames, layers, width)).astype(np.float16)
    return HeardClip(name, motion, canonical, states, heard_by, emotion)


def test_a_clip_holds_kdtalkers_motion_and_all_hidden_states(tmp_path, networks, hubert):
    levels = [100] * 4 + [0] * 2 + list(np.linspace(60, 200, 12).round())
    path = video(tmp_path / "a.mp4", levels, sound=noise(18 / 25))
    ours = extract_clip(path, "a", networks, SHORT, kind=clips_of(hubert))
    kdtalkers = extract_clip(path, "a", networks, SHORT, kind=OnlyMotion())
    assert (ours.first_frame, ours.clip.frames, ours.video_frames) == (6, 12, 18)
    assert np.array_equal(ours.clip.motion, kdtalkers.clip.motion)
    assert np.array_equal(ours.clip.canonical, kdtalkers.clip.canonical)
    heard = hidden_states(hubert, heard_waveform(path)[: 18 * 640], total_frames=18)
    assert ours.clip.hidden_states.shape == (24, LAYERS + 1, WIDTH)
    assert ours.clip.hidden_states.dtype == np.float16
    assert torch.equal(torch.from_numpy(ours.clip.hidden_states), heard[12:36].half())


class OnlyMotion:
    """A kind of clip that hears nothing."""

    def clip(self, name, stretch, waveform, tick=None):
        return Clip(name, stretch.motion, stretch.canonical, np.zeros((len(stretch.motion), 512)))


def test_files_say_what_they_are_and_hold_what_was_made(tmp_path, networks, hubert):
    for name in FILES:
        video(tmp_path / "videos" / name, [100] * 10, sound=noise(0.4))
    labels = {"two.mp4": np.eye(7, dtype=np.float32)[2] * 0.5}
    extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT, kind=clips_of(hubert, labels))
    one, two = open_speech_clips(tmp_path / "data")
    assert (one.name, one.frames, one.layers, one.width) == (
        "anna/one.mp4.safetensors",
        10,
        LAYERS + 1,
        WIDTH,
    )
    assert one.emotion is None
    assert one.speech_model == two.speech_model == "small_hubert"
    assert two.emotion.tolist() == [0, 0, 0.5, 0, 0, 0, 0]
    made = extract_clip(
        tmp_path / "videos" / "two.mp4", "two.mp4", networks, SHORT, kind=clips_of(hubert)
    ).clip
    assert np.array_equal(two.motion, made.motion)
    assert np.array_equal(two.source, made.canonical[0])
    assert np.array_equal(two.hidden_states[4:9], made.hidden_states[4:9])


def test_a_bad_video_does_not_stop_the_run_and_good_clips_are_kept_until_something_changes(
    tmp_path, networks, hubert
):
    folder, data = tmp_path / "videos", tmp_path / "data"
    for name in FILES:
        video(folder / name, [100] * 10, sound=noise(0.4))
    video(folder / "mute.mp4", [100] * 10)

    def run(labels=None, settings=SHORT):
        extract_dataset(folder, data, networks, settings, kind=clips_of(hubert, labels))
        return [report(data)[name]["status"] for name in (*FILES, "mute.mp4")]

    assert run() == ["extracted", "extracted", "bad"]
    assert run() == ["kept", "kept", "bad"]
    label = {"two.mp4": np.eye(7, dtype=np.float32)[1]}
    assert run(label) == ["kept", "extracted", "bad"]
    assert run(label) == ["kept", "kept", "bad"]
    assert run() == ["kept", "extracted", "bad"]
    video(folder / "two.mp4", [90] * 11, sound=noise(0.44))
    assert run() == ["kept", "extracted", "bad"]
    assert run(settings=ExtractionSettings(shortest=5, networks={"speech_encoder": "another"})) == [
        "extracted",
        "extracted",
        "bad",
    ]
    assert "has no sound" in report(data)["mute.mp4"]["reason"]


def test_what_hubert_hears_can_be_cancelled(tmp_path, networks, hubert):
    path = video(tmp_path / "videos" / "a.mp4", [100] * 10, sound=noise(0.4))
    calls = []
    extract_clip(path, "a", networks, SHORT, lambda: calls.append(1), clips_of(hubert))
    assert len(calls) == 11  # ten frames, and the sound

    def cancel(done, total):
        calls.append(1)
        if len(calls) == 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT, cancel, clips_of(hubert))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["report.jsonl"]


def test_a_clip_of_kdtalkers_is_not_taken_for_one_of_ours(tmp_path, networks, hubert):
    video(tmp_path / "videos" / "a.mp4", [100] * 10, sound=noise(0.4))
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.mp4.safetensors"
    write_clip(path, Clip("a", *(np.zeros((10, size)) for size in (70, 63, 512))))
    with pytest.raises(ValueError, match=r"not a clip for Takin-ADA.*takin-ada extract"):
        open_speech_clips(tmp_path / "data")
    reports = extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT, kind=clips_of(hubert))
    assert reports[0].status == "extracted"
    assert open_speech_clip(path).frames == 10
    with pytest.raises(ValueError, match="not a clip for KDTalker"):
        open_clip(path)


def table(tmp_path, text: str):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_put_strengths_at_the_emotions_places(tmp_path):
    text = "\ufefffile, strength,emotion\nanna/one.mp4,,happy\ntwo.mp4, 0.5 , Fearful\n"
    labels = read_labels(table(tmp_path, text), FILES)
    assert list(labels) == ["anna/one.mp4", "two.mp4"]
    assert labels["anna/one.mp4"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert labels["two.mp4"].tolist() == [0, 0, 0, 0, 0, 0, 0.5]
    assert labels["two.mp4"].dtype == np.float32
    without = read_labels(table(tmp_path, "file,emotion\ntwo.mp4,neutral\n"), FILES)
    assert without["two.mp4"][EMOTION_NAMES.index("neutral")] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,emotion\ntwo.mp4,joyous\n", r"line 2: unknown emotion 'joyous'; known: neutral, happy"),
        ("file,emotion\ntwo.mp4,\n", "line 2: unknown emotion ''"),
        ("file,emotion\ntwo.mp4,sad\nthree.mp4,sad\n", r"line 3: there is no file 'three\.mp4'"),
        ("file,emotion\ntwo.mp4,sad\ntwo.mp4,sad\n", r"line 3: 'two\.mp4' has a label already"),
        (
            "file,emotion,strength\ntwo.mp4,sad,2.5\n",
            r"line 2: strength is '2\.5', expected a number from 0 to 2",
        ),
        ("file,emotion,strength\ntwo.mp4,sad,-1\n", "strength is '-1'"),
        ("file,emotion,strength\ntwo.mp4,sad,nan\n", "strength is 'nan'"),
        ("file,emotion,strength\ntwo.mp4,sad,much\n", "strength is 'much'"),
        ("file,emotion\ntwo.mp4,sad,1\n", "line 2: the row has not 2 columns"),
        ("file,emotion\ntwo.mp4\n", "line 2: the row has not 2 columns"),
        ("file,feeling\ntwo.mp4,sad\n", "the columns are file, feeling, expected"),
        ("file,emotion,emotion\ntwo.mp4,sad,sad\n", "the columns are file, emotion, emotion"),
        ("file,emotion,strenght\ntwo.mp4,sad,1\n", "the columns are file, emotion, strenght"),
        ("", "the columns are none"),
        ("file,emotion\n", "has no rows"),
        ('file,emotion\n"two.mp4,sad\n', "not a CSV table"),
    ],
)
def test_labels_that_cannot_be(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(table(tmp_path, text), FILES)


def test_labels_of_another_encoding_or_nowhere(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("file,emotion\nzwölf.mp4,sad\n".encode("utf-16"))
    with pytest.raises(ValueError, match="not a CSV table in UTF-8"):
        read_labels(path, FILES)
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "none.csv", FILES)


def test_windows_of_clips_on_disk_are_those_of_clips_in_memory(tmp_path):
    emotions = [np.eye(7, dtype=np.float32)[1], np.eye(7, dtype=np.float32)[0], None]
    in_memory = []
    for seed, (frames, emotion) in enumerate(zip((30, 12, 25), emotions, strict=True)):
        clip = made_clip(f"{seed}", frames, seed=seed, emotion=emotion)
        write_speech_clip(tmp_path / f"{seed}.safetensors", clip)
        in_memory.append(SpeechClip(clip.name, clip.hidden_states, clip.motion, clip.canonical[0], emotion))
    on_disk = open_speech_clips(tmp_path)
    models = [new_model(SMALL_KEYPOINTS, clips, seed=3) for clips in (in_memory, on_disk)]
    for name, values in models[0].state_dict().items():
        assert torch.equal(values, models[1].state_dict()[name]), name
    one, other = (
        batch_of(model, clips, [7, 0, 1]) for model, clips in zip(models, (in_memory, on_disk), strict=True)
    )
    for name, values in one._asdict().items():
        assert torch.equal(values, getattr(other, name)), name


def test_only_the_steps_of_a_window_are_read(tmp_path, monkeypatch):
    from talking_portrait.training import takin_ada_speech_dataset as dataset

    write_speech_clip(tmp_path / "a.safetensors", made_clip(frames=200))
    clips = open_speech_clips(tmp_path)
    model = new_model(SMALL_KEYPOINTS, clips, seed=0)
    read, whole = [], dataset.require_finite

    def watched(values, part, name):
        read.append((part, len(values)))
        whole(values, part, name)

    monkeypatch.setattr(dataset, "require_finite", watched)
    batch_of(model, clips, [100])
    assert ("hidden_states", 40) in read
    assert ("canonical", 1) in read
    assert max(rows for part, rows in read if part == "hidden_states") == 40


@pytest.mark.parametrize("parameters", [SMALL, SMALL_KEYPOINTS, SMALL_STREAMING])
def test_networks_batches_and_losses_are_where_the_trainer_is(parameters):
    """On the device that has shapes and no memory, which refuses to be mixed with the processor."""
    rng, size = np.random.default_rng(0), parameters.layout.size
    arrays = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 3, 8), (4, size)))
    clips = [
        SpeechClip("a", *arrays, np.zeros(parameters.source_size, np.float32), np.eye(7)[1], np.zeros(4))
    ]
    recipe = TakinADASpeechTrainingParameters(steps=1, batch=2)
    trainer = TakinADASpeechTrainer(parameters, recipe, clips, device="meta")
    batch = draw_batch(trainer.average, clips, 2, seed=0, step=0)
    losses = training_loss(trainer.model, batch, recipe, step=0)
    losses.loss.backward()
    trainer.optimiser.step()
    assert {part.device.type for part in (*batch, *losses)} == {"meta"}
    assert all(
        value.is_meta for value in trainer.optimiser.state[trainer.model.no_start].values() if value.dim()
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"width": 9},
            r"a\.safetensors by small, 3 hidden states, 8 wide; b\.safetensors by small, 3 .* 9 wide",
        ),
        ({"layers": 4}, "small, 4 hidden states"),
        ({"heard_by": "hubert_base"}, r"b\.safetensors by hubert_base"),
    ],
)
def test_clips_that_different_speech_models_have_heard_are_refused(tmp_path, other, message):
    write_speech_clip(tmp_path / "a.safetensors", made_clip())
    write_speech_clip(tmp_path / "b.safetensors", made_clip(**other))
    with pytest.raises(ValueError, match=rf"different speech models.*{message}"):
        open_speech_clips(tmp_path)


def test_clips_that_do_not_fit_a_model_are_refused(tmp_path):
    write_speech_clip(tmp_path / "a.safetensors", made_clip())
    clips = open_speech_clips(tmp_path)
    require_fitting_clips(clips, SMALL_KEYPOINTS)
    with pytest.raises(ValueError, match=r"3 hidden states, 8 wide, of small, but .* 25, 1024 wide"):
        require_fitting_clips(clips, TakinADAParameters())
    with pytest.raises(ValueError, match="a listener of its own"):
        require_fitting_clips(clips, SMALL_LISTENING)


def test_clips_that_are_no_clips(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_speech_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no clips.*takin-ada extract"):
        open_speech_clips(tmp_path)
    path = tmp_path / "a.safetensors"
    write_speech_clip(path, made_clip())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        open_speech_clips(tmp_path)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert header["__metadata__"]["takin_ada_clip"] == "1"


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("motion", np.zeros((10, 69)), r"motion has shape \(10, 69\), expected \(10, 70\)"),
        (
            "hidden_states",
            np.zeros((19, 3, 8)),
            r"hidden_states has shape \(19, 3, 8\), expected \(20, 3, 8\)",
        ),
        ("hidden_states", np.zeros((20, 24)), r"expected \(steps, layers, width\)"),
        ("hidden_states", np.full((20, 3, 8), np.inf), r"hidden_states holds NaN or infinity \(480 of 480"),
        ("canonical", np.full((10, 63), np.nan), "canonical holds NaN"),
        ("emotion", np.zeros(6), r"emotion has shape \(6,\), expected \(7,\)"),
        ("motion", np.zeros((1, 70)), "has 1 frames, expected at least 2"),
    ],
)
def test_arrays_that_make_no_clip(part, values, message):
    parts = {**vars(made_clip()), part: values}
    with pytest.raises(ValueError, match=message):
        HeardClip(**parts)
