"""What thin nodes do with good and with bad wires."""

import copy
import json

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.frame_clock import frame_count, sample_count
from talking_portrait.core_models.types import EMOTION_NAMES, FaceMotion

pytestmark = pytest.mark.usefixtures("host_folders")

REGIONS = ("lips", "jaw", "eyes", "brows", "cheeks", "pose")
LOOK = {"expression_strength": 1.0, "head_strength": 1.0, "interpolation": "linear"}


def run(node_id: str, nodes: dict, **inputs):
    """Call a node as a host does: with the defaults of all widgets that are not given."""
    node = nodes[node_id]
    for name, (kind, options) in node.INPUT_TYPES().get("required", {}).items():
        if name not in inputs and "default" in options:
            inputs[name] = options["default"]
        elif name not in inputs and isinstance(kind, list):
            inputs[name] = kind[0]
    result = getattr(node(), node.FUNCTION)(**inputs)
    return result if isinstance(result, dict) else tuple(result)


@pytest.fixture
def small_portrait(astronaut_portrait):
    from talking_portrait.core_models.face.picture_size import fit_portrait

    return fit_portrait(astronaut_portrait, 192)


def test_demo_portrait_needs_no_detector(nodes):
    image, landmarks = run("TP_LoadPortraitImage", nodes)
    portrait, crop = run("TP_Portrait", nodes, image=image, landmarks=landmarks)
    assert image.shape == (1, 512, 512, 3)
    assert crop.shape == (1, portrait.crop_size, portrait.crop_size, 3)
    assert portrait.presence == 1
    np.testing.assert_array_equal(portrait.frame, (image[0] * 255).round().byte().numpy())


def test_the_made_head_needs_no_detector_either(nodes):
    demo = nodes["TP_LoadPortraitImage"].INPUT_TYPES()["required"]["image"][0][1]
    image, landmarks = run("TP_LoadPortraitImage", nodes, image=demo)
    portrait, _ = run("TP_Portrait", nodes, image=image, landmarks=landmarks)
    assert portrait.size == (256, 256)
    low, high = portrait.landmarks[:, :2].min(axis=0), portrait.landmarks[:, :2].max(axis=0)
    assert 0.4 < (high - low)[1] / 256 < 0.65, "the face is half the picture's height"


def test_picture_brings_the_landmarks_beside_it(nodes, host_folders, astronaut, astronaut_landmarks):
    from PIL import Image
    from talking_portrait.core_models.face.landmarks import write_landmarks

    Image.fromarray(astronaut).save(host_folders / "input" / "me.png")
    assert run("TP_LoadPortraitImage", nodes, image="me.png")[1] == ""
    write_landmarks(astronaut_landmarks, host_folders / "input" / "me.landmarks.json")
    image, landmarks = run("TP_LoadPortraitImage", nodes, image="me.png")
    portrait, _ = run("TP_Portrait", nodes, image=image, landmarks=landmarks)
    np.testing.assert_allclose(portrait.landmarks, astronaut_landmarks.landmarks, atol=0.01)


def test_menu_offers_the_demo_first_and_then_the_users_pictures(nodes, host_folders, astronaut):
    from PIL import Image

    Image.fromarray(astronaut).save(host_folders / "input" / "b.png")
    Image.fromarray(astronaut).save(host_folders / "input" / "a.webp")
    (host_folders / "input" / "speech.wav").write_bytes(b"")
    choices, _ = nodes["TP_LoadPortraitImage"].INPUT_TYPES()["required"]["image"]
    assert all(choice.startswith("demo:") for choice in choices[:2])
    assert choices[2:] == ["a.webp", "b.png"]


@pytest.mark.parametrize("node_id", ["TP_LoadPortraitImage", "TP_LoadSpeech", "TP_LoadDrivingVideo"])
def test_loaders_validate_names(nodes, node_id):
    check = nodes[node_id].VALIDATE_INPUTS
    assert check(None) is True  # a linked input arrives as None
    assert "missing.file" in check("missing.file")
    (choices, _) = next(iter(nodes[node_id].INPUT_TYPES()["required"].values()))
    assert check(choices[0]) is True


def test_fingerprint_changes_with_the_file(nodes, host_folders):
    import os

    path = host_folders / "input" / "speech.wav"
    path.write_bytes(b"one")
    before = nodes["TP_LoadSpeech"].IS_CHANGED("speech.wav")
    assert nodes["TP_LoadSpeech"].IS_CHANGED("speech.wav") == before
    path.write_bytes(b"other")
    assert nodes["TP_LoadSpeech"].IS_CHANGED("speech.wav") != before
    status = path.stat()
    after = nodes["TP_LoadSpeech"].IS_CHANGED("speech.wav")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert nodes["TP_LoadSpeech"].IS_CHANGED("speech.wav") != after


def test_a_portrait_is_made_anew_when_its_landmarks_file_changes(nodes, host_folders):
    path = host_folders / "input" / "face.json"
    path.write_text("one")
    portrait = nodes["TP_Portrait"]
    before = portrait.IS_CHANGED(landmarks=" face.json ", face_index=-1)
    path.write_text("other")
    assert portrait.IS_CHANGED(landmarks="face.json", face_index=-1) != before
    assert portrait.IS_CHANGED(landmarks=None) == portrait.IS_CHANGED() == ""


def test_not_a_picture_is_said(nodes, host_folders):
    (host_folders / "input" / "notes.png").write_text("hello")
    with pytest.raises(ValueError, match="is not a picture"):
        run("TP_LoadPortraitImage", nodes, image="notes.png")


def test_portrait_takes_one_picture_of_a_batch(nodes, image_of, astronaut, host_folders):
    image = image_of(astronaut[::-1].copy(), astronaut)
    landmarks = run("TP_LoadPortraitImage", nodes)[1]
    portrait, _ = run("TP_Portrait", nodes, image=image, landmarks=landmarks, picture_index=1)
    np.testing.assert_array_equal(portrait.frame, astronaut)
    with pytest.raises(ValueError, match="picture 2 was asked for, but the IMAGE holds 2"):
        run("TP_Portrait", nodes, image=image, landmarks=landmarks, picture_index=2)


def test_portrait_says_what_to_fetch_or_connect(nodes, image_of, astronaut, tmp_path, monkeypatch):
    for name in ("TALKING_PORTRAIT_MODELS", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(
        ValueError, match=r"weights fetch face_landmarker, 3\.7 MB.* or connect Load Face Detector"
    ):
        run("TP_Portrait", nodes, image=image_of(astronaut))


def test_portrait_refuses_landmarks_of_another_picture(nodes, image_of, astronaut):
    landmarks = run("TP_LoadPortraitImage", nodes)[1]
    with pytest.raises(ValueError, match="belongs to a picture of 512 x 512 px, but this one is 512 x 400"):
        run("TP_Portrait", nodes, image=image_of(astronaut[:400]), landmarks=landmarks)


def test_portrait_refuses_what_is_not_an_image(nodes, tone):
    with pytest.raises(ValueError, match="expected an IMAGE"):
        run("TP_Portrait", nodes, image=tone(10), landmarks="x")


def test_portrait_by_detector_agrees_with_given_landmarks(
    nodes, image_of, astronaut, face_bundle, monkeypatch
):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
    (detector,) = run("TP_LoadFaceDetector", nodes)
    image, landmarks = run("TP_LoadPortraitImage", nodes)
    given, _ = run("TP_Portrait", nodes, image=image, landmarks=landmarks)
    found, _ = run("TP_Portrait", nodes, image=image, face_detector=detector)
    unconnected, _ = run("TP_Portrait", nodes, image=image)
    np.testing.assert_array_equal(unconnected.landmarks, found.landmarks)
    assert np.abs(found.landmarks[:, :2] - given.landmarks[:, :2]).mean() < 2
    box = [[{"x": 180, "y": 60, "width": 90, "height": 130}]]
    boxed, _ = run("TP_Portrait", nodes, image=image, face_detector=detector, bounding_box=box)
    assert np.abs(boxed.landmarks[:, :2] - given.landmarks[:, :2]).mean() < 2
    face, mouth, motion, preview = run(
        "TP_FaceMaskBuilder", nodes, image=image_of(astronaut, astronaut), face_detector=detector
    )
    assert face.shape == mouth.shape == motion.shape == (2, 512, 512)
    assert preview.shape == (2, 512, 512, 3)


def test_face_detector_is_not_fetched_unasked(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    with pytest.raises(OSError, match="download_if_missing"):
        run("TP_LoadFaceDetector", nodes)


def test_pasting_an_unchanged_crop_changes_nothing_visible(nodes, astronaut_portrait, image_of):
    from talking_portrait.core_models.face.crop import crop_face

    crop = crop_face(astronaut_portrait.frame, astronaut_portrait.crop_to_frame, astronaut_portrait.crop_size)
    (pasted,) = run("TP_PasteBack", nodes, portrait=astronaut_portrait, crop=image_of(crop, crop))
    original = image_of(astronaut_portrait.frame)
    assert pasted.shape == (2, 512, 512, 3)
    assert (pasted - original).abs().mean() < 0.01


def test_audio_is_matched_to_whole_frames(nodes, tone):
    audio, count, fps = run("TP_MatchAudioToFrames", nodes, audio=tone(44100 + 17), fps=25.0)
    assert (count, fps) == (26, 25.0)
    assert audio["waveform"].shape == (1, 2, sample_count(26, 25, 44100))


def test_embedding_refuses_a_batch_and_what_is_not_audio(nodes, tone):
    batch = {"waveform": torch.zeros(2, 1, 8000), "sample_rate": 16000}
    with pytest.raises(ValueError, match="holds 2 sounds"):
        run("TP_AudioEmbedding", nodes, audio=batch)
    with pytest.raises(ValueError, match="expected AUDIO"):
        run("TP_AudioEmbedding", nodes, audio=None)  # a video without sound


def test_emotions_by_menu_chain_and_text(nodes):
    (happy,) = run("TP_EmotionCondition", nodes)
    (mixed,) = run("TP_EmotionCondition", nodes, second_emotion="sad", mix=0.25, strength=0.5)
    (chained,) = run("TP_EmotionCondition", nodes, emotion="angry", start_time=2.0, previous=happy)
    (written,) = run("TP_EmotionCondition", nodes, keyframes="0: neutral, 2: happy 0.8")
    column = EMOTION_NAMES.index
    assert happy.at(np.zeros(1))[0, column("happy")] == 1
    np.testing.assert_allclose(mixed.at(np.zeros(1))[0, [column("happy"), column("sad")]], [0.375, 0.125])
    assert chained.at(np.array([1.9]))[0, column("happy")] == 1
    assert chained.at(np.array([2.6]))[0, column("angry")] == 1
    np.testing.assert_allclose(written.at(np.array([1.0]))[0, column("happy")], 0.4, atol=1e-6)


def test_motion_nodes_agree_on_time(nodes, talking_motion):
    thirty, fps = run("TP_ResampleMotion", nodes, motion=talking_motion, fps=30.0)
    assert (fps, thirty.fps, thirty.frame_count) == (30.0, 30.0, frame_count(12 / 25, 30))
    (mixed,) = run("TP_MixMotion", nodes, base=talking_motion, other=thirty)
    assert (mixed.fps, mixed.frame_count) == (25.0, 12)
    (joined,) = run("TP_JoinMotion", nodes, first=talking_motion, second=thirty, cross_fade=0.0)
    assert (joined.fps, joined.frame_count) == (25.0, 12 + frame_count(thirty.duration, 25))
    (part,) = run("TP_SliceMotion", nodes, motion=talking_motion, start=0.2, stop=0.0)
    assert part.frame_count == 7


def test_mixing_gates_regions(nodes, talking_motion):
    still = FaceMotion.at_rest(12, 25.0)
    gates = {**dict.fromkeys(REGIONS, 0.0), "pose": 1.0}
    (mixed,) = run("TP_MixMotion", nodes, base=still, other=talking_motion, **gates)
    np.testing.assert_allclose(mixed.rotation, talking_motion.rotation, atol=1e-3)
    assert not mixed.expression.any()
    (weaker,) = run("TP_AdjustMotion", nodes, motion=talking_motion, jaw=0.5)
    np.testing.assert_allclose(
        weaker.blendshape("jawOpen"), talking_motion.blendshape("jawOpen") / 2, atol=1e-6
    )


def test_motion_goes_through_a_table(nodes, talking_motion, host_folders):
    saved = run("TP_SaveMotionCSV", nodes, motion=talking_motion)
    (path,) = saved["result"]
    assert path.startswith(str(host_folders / "output" / "motion"))
    motion, fps = run("TP_MotionFromCSV", nodes, file=f" {path} ", fps=25.0)
    assert (fps, motion.frame_count) == (25.0, 12)
    np.testing.assert_allclose(motion.expression, talking_motion.expression, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "answer"),
    [("", "name a file"), (" ", "name a file"), ("no.csv", "there is no file"), (None, None)],
)
def test_a_table_that_is_not_there_is_said_before_anything_runs(nodes, host_folders, file, answer):
    told = nodes["TP_MotionFromCSV"].VALIDATE_INPUTS(file)
    assert told is True if answer is None else answer in told


@pytest.mark.parametrize("samples", [100, 21168, 21169, 44100])
def test_frames_rate_and_sound_agree(nodes, small_portrait, talking_motion, tone, samples):
    frames, fps, audio = run(
        "TP_WarpingRenderer",
        nodes,
        portrait=small_portrait,
        motion=talking_motion,
        audio=tone(samples),
        **LOOK,
    )
    expected = max(12, frame_count(samples / 44100, 25))
    assert frames.shape == (expected, 192, 192, 3)
    assert fps == 25.0
    assert audio["waveform"].shape[2] == sample_count(expected, 25, 44100)
    torch.testing.assert_close(audio["waveform"][..., :samples], tone(samples)["waveform"])


def test_renderer_without_audio_gives_none(nodes, small_portrait, talking_motion):
    frames, _, audio = run(
        "TP_WarpingRenderer", nodes, portrait=small_portrait, motion=talking_motion, **LOOK
    )
    assert len(frames) == 12
    assert audio is None
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_renderer_names_the_converter_for_the_other_space(nodes, small_portrait):
    with pytest.raises(ValueError, match="choose LivePortrait"):
        run(
            *("TP_WarpingRenderer", nodes),
            portrait=small_portrait,
            motion=FaceMotion.at_rest(3, 25.0, "implicit_keypoints"),
        )


def test_wires_are_not_changed(nodes, small_portrait, talking_motion, tone):
    audio = tone(30000)
    before = copy.deepcopy((small_portrait, talking_motion, audio))
    run("TP_WarpingRenderer", nodes, portrait=small_portrait, motion=talking_motion, audio=audio)
    run("TP_AdjustMotion", nodes, motion=talking_motion, jaw=2.0, smoothing=0.1)
    run("TP_MatchAudioToFrames", nodes, audio=audio)
    for name in ("frame", "landmarks", "blendshapes"):
        np.testing.assert_array_equal(getattr(small_portrait, name), getattr(before[0], name))
    np.testing.assert_array_equal(talking_motion.expression, before[1].expression)
    torch.testing.assert_close(audio["waveform"], before[2]["waveform"])


def test_streamed_video_is_whole_and_carries_the_graph(
    nodes, small_portrait, talking_motion, tone, host_folders
):
    from talking_portrait.core_models.media_container import read_metadata
    from talking_portrait.core_models.video_file import read_video_frames

    prompt, workflow = {"8": {"class_type": "TP_RenderTalkingVideo"}}, {"version": 0.4, "nodes": []}
    result = run(
        *("TP_RenderTalkingVideo", nodes),
        portrait=small_portrait,
        motion=talking_motion,
        audio=tone(44100),
        filename_prefix="clips/me",
        prompt=prompt,
        extra_pnginfo={"workflow": workflow},
    )
    (reference,) = result["ui"]["images"]
    assert reference == {"filename": "me_00001_.mp4", "subfolder": "clips", "type": "output"}
    path = host_folders / "output" / "clips" / "me_00001_.mp4"
    assert result["result"] == (str(path),)
    tags = read_metadata(path)
    assert json.loads(tags["prompt"]) == prompt
    assert json.loads(tags["workflow"]) == workflow
    assert sum(1 for _ in read_video_frames(path)) == frame_count(1.0, 25)


def test_cancelling_leaves_no_video(nodes, small_portrait, talking_motion, host_folders):
    from talking_portrait.runtime.host import WorkCancelledError, host

    host().cancel()
    try:
        with pytest.raises(WorkCancelledError):
            run("TP_RenderTalkingVideo", nodes, portrait=small_portrait, motion=talking_motion)
    finally:
        host().allow_work()
    assert not [path for path in (host_folders / "output").rglob("*") if path.is_file()]


def test_driving_video_becomes_motion(
    nodes, astronaut_portrait, talking_motion, tone, face_bundle, monkeypatch, host_folders
):
    from talking_portrait.core_models.types import ModelHandle

    written = run(
        *("TP_RenderTalkingVideo", nodes),
        portrait=astronaut_portrait,
        motion=talking_motion,
        audio=tone(21168),
    )
    video = written["result"][0]
    frames, fps, audio = run("TP_LoadDrivingVideo", nodes, video=video, largest_side=256)
    assert frames.shape == (12, 256, 256, 3)
    assert audio["waveform"].shape[2] == sample_count(12, 25, 44100)
    detector = ModelHandle("face_landmarker", str(face_bundle))
    (motion,) = run("TP_MotionFromVideo", nodes, frames=frames, fps=fps, face_detector=detector)
    assert (motion.frame_count, motion.fps) == (12, 25.0)
    asked, read = talking_motion.rotation[:, 1], motion.rotation[:, 1]
    assert np.corrcoef(asked, read)[0, 1] > 0.95
    with pytest.raises(ValueError, match="expected a face detector"):
        run("TP_MotionFromVideo", nodes, frames=frames, fps=fps, face_detector=ModelHandle("pocket", "x"))


def test_sampler_makes_as_many_frames_as_the_clock(nodes, tone):
    from talking_portrait.core_models.keypoint_diffusion.loading import EMBEDDED_POCKET

    if not EMBEDDED_POCKET.is_file():
        pytest.skip("the pocket model has not been trained yet")
    (model,) = run("TP_LoadKeypointDiffusion", nodes)
    (embedding,) = run("TP_AudioEmbedding", nodes, audio=tone(66150))
    ((motion,),) = run("TP_KeypointDiffusionSampler", nodes, model=model, audio_embeds=embedding, steps=2)
    assert motion.frame_count == frame_count(1.5, 25)
    ((thirty,),) = run(
        "TP_KeypointDiffusionSampler", nodes, model=model, audio_embeds=embedding, steps=2, fps=30.0
    )
    assert (thirty.fps, thirty.frame_count) == (30.0, frame_count(1.5, 30))


def test_an_emotion_is_read_off_one_face_and_laid_over_anothers_motion(
    nodes, astronaut_portrait, talking_motion
):
    emotion, description = run("TP_EmotionFromFace", nodes, portrait=astronaut_portrait)
    assert description.startswith("happy")
    (smiling,) = run("TP_EmotionOffset", nodes, motion=talking_motion, emotion=emotion)
    assert smiling.blendshape("mouthSmileLeft").min() > 0.1
    assert np.array_equal(smiling.blendshape("jawOpen"), talking_motion.blendshape("jawOpen"))
