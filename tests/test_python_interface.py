"""The Python interface: light to import, the same results as the nodes, exact lengths, cancelling, and its errors."""

import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import talking_portrait as tp
import torch
from talking_portrait.api import EXPORTED, models, work
from talking_portrait.core_models.audio.frame_clock import frame_count, sample_count
from talking_portrait.core_models.types import KeypointDiffusionModels, ModelHandle, RendererModels
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import fantasytalking_parameters
from talking_portrait.core_models.video_diffusion.wan.transformer import new_wan_transformer
from talking_portrait.core_models.video_file import read_video_frames
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime.host import host
from talking_portrait.runtime.weights import find_weight

from .small_low_rank import drawn_pairs, pair_tensors, written

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "cv2", "av", "PIL", "transformers")


@pytest.fixture(scope="module")
def word():
    """Half a second of the demo's speech."""
    return tp.load_sound(tp.DEMO_SPEECH, start=0.5, duration=0.5)


@pytest.fixture(scope="module")
def pocket():
    return tp.load_keypoint_diffusion()


@pytest.fixture(scope="module")
def motion(pocket, word):
    return tp.sample(pocket, tp.embed(word, pocket), seed=3)


@pytest.fixture(scope="module")
def portrait():
    return tp.demo_head()


def run_node(name, **inputs):
    """Return a node's outputs; what is not given has the default that its page shows."""
    node = NODE_CLASS_MAPPINGS[name]
    schema = node.INPUT_TYPES()
    shown = {key: spec[1]["default"] for key, spec in schema["required"].items() if "default" in spec[1]}
    return getattr(node(), node.FUNCTION)(**{**shown, **inputs})


def as_image(portrait):
    return torch.from_numpy(np.array(portrait.frame))[None].float() / 255


def as_audio(sound):
    from talking_portrait.core_models.audio.decode import sound_to_comfy

    return sound_to_comfy(sound)


def as_frames(image):
    return [(frame.numpy() * 255).round().astype(np.uint8) for frame in image]


class TestNames:
    def test_the_import_is_light_until_a_name_is_used(self):
        code = (
            f"import sys, talking_portrait as tp; heavy = set({HEAVY})\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
            "assert 'load_portrait' in dir(tp) and not hasattr(tp, 'comfy_entrypoint')\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
            "assert tp.emotion('happy').strengths == [1] and 'numpy' in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_every_name_is_there_and_explained(self):
        for name in EXPORTED:
            value = getattr(tp, name)
            assert value.__doc__ or isinstance(value, Path), name

    def test_other_names_are_not(self):
        with pytest.raises(AttributeError, match="no attribute 'lode_portrait'"):
            tp.lode_portrait  # noqa: B018

    def test_it_works_under_the_name_that_comfyui_gives(self, tmp_path):
        code = (
            "import importlib.util, sys\n"
            f"place = {str(tmp_path / 'Pack')!r}, {str(ROOT / '__init__.py')!r}\n"
            "spec = importlib.util.spec_from_file_location(*place)\n"
            "pack = importlib.util.module_from_spec(spec); sys.modules[spec.name] = pack\n"
            "spec.loader.exec_module(pack)\n"
            "assert pack.emotion('sad').strengths == [1] and pack.NODE_CLASS_MAPPINGS\n"
            "assert 'talking_portrait' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestSameAsTheNodes:
    def test_motion_and_frames(self, pocket, word, motion, portrait):
        image, landmarks = run_node("TP_LoadPortraitImage", image="demo: made head (drawn by this project)")
        made, _ = run_node("TP_Portrait", image=image, landmarks=landmarks)
        assert np.array_equal(made.frame, portrait.frame)
        assert np.array_equal(made.crop_to_frame, portrait.crop_to_frame)
        (model,) = run_node("TP_LoadKeypointDiffusion")
        (speech,) = run_node("TP_AudioEmbedding", audio=as_audio(word), encoder="automatic", model=model)
        ((sampled,),) = run_node("TP_KeypointDiffusionSampler", model=model, audio_embeds=speech, seed=3)
        assert np.array_equal(sampled.expression, motion.expression)
        assert np.array_equal(sampled.rotation, motion.rotation)
        frames, fps, audio = run_node(
            "TP_WarpingRenderer", portrait=made, motion=sampled, audio=as_audio(word)
        )
        drawn = tp.render(motion, portrait, word)
        assert fps == drawn.fps
        assert np.array_equal(as_frames(frames), list(drawn))
        assert np.array_equal(audio["waveform"][0].numpy(), drawn.sound.waveform)

    def test_emotions_and_poses(self, pocket, word):
        speech = tp.embed(word)
        (shown,) = run_node("TP_EmotionCondition", emotion="sad", strength=0.5)
        nod = tp.sample(pocket, speech, seed=9)
        ((made,),) = run_node(
            "TP_KeypointDiffusionSampler",
            model=pocket,
            audio_embeds=speech,
            emotion=shown,
            pose=nod,
            mouth=0.5,
        )
        same = tp.sample(pocket, speech, emotion="sad 0.5", pose=nod, mouth=0.5)
        assert np.array_equal(made.expression, same.expression)
        assert np.allclose(same.rotation, nod.rotation, atol=1e-4)

    def test_actalker(self, word, motion, portrait):
        model = tp.load_actalker()
        speech = tp.embed(word, model)
        clip = tp.sample(
            model, speech, portrait, motion=motion, motion_gate="0: 1, 1: 0.5", steps=2, frames=3, seed=4
        )
        (identity, _) = run_node("TP_IdentityEmbedding", portrait=portrait, actalker=model)
        face, mouth, moving, _ = run_node(
            "TP_FaceMaskBuilder", portrait=portrait, feather=0.0, shape="boxes", frames="union"
        )
        (moved,) = run_node("TP_MotionEmbedding", actalker=model, motion=motion)
        (control,) = run_node(
            "TP_MaskedSSMController",
            face_mask=face,
            audio_mask=mouth,
            motion_mask=moving,
            audio_embeds=speech,
            motion_embeds=moved,
            motion_gate_over_time="0: 1, 1: 0.5",
        )
        latent, fps, count = run_node(
            "TP_ACTalkerSampler",
            actalker=model,
            portrait=portrait,
            identity=identity,
            control=control,
            framing="around the face",
            steps=2,
            frames=3,
            seed=4,
        )
        (image,) = run_node("TP_ACTalkerDecode", actalker=model, latent=latent)
        assert (clip.fps, clip.frame_count) == (fps, count) == (12.5, 3)
        assert np.array_equal(as_frames(image), list(tp.render(clip)))

    def test_fantasytalking(self, word, portrait):
        model = tp.load_fantasytalking()
        speech = tp.embed(word, model)
        clip = tp.sample(model, speech, portrait, intensity=0.2, steps=2, seed=4)
        (identity, _) = run_node("TP_IdentityEmbedding", portrait=portrait, fantasytalking=model)
        intensity, _ = run_node("TP_MotionIntensity", face=0.2, body=0.2)
        latent, fps, count = run_node(
            "TP_FantasyTalkingSampler",
            fantasytalking=model,
            portrait=portrait,
            audio_embeds=speech,
            identity=identity,
            motion_intensity=intensity,
            framing="around the face",
            steps=2,
            seed=4,
        )
        (image,) = run_node("TP_FantasyTalkingDecode", fantasytalking=model, latent=latent)
        drawn = tp.render(clip, sound=word)
        assert (clip.fps, clip.frame_count) == (fps, count) == (drawn.fps, len(drawn))
        assert np.array_equal(as_frames(image), list(drawn))
        assert drawn.sound.sample_count == sample_count(count, fps, word.sample_rate)

    def test_films(self, face_bundle, monkeypatch):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
        told = []
        read = tp.read_motion(
            tp.DEMO_DRIVING_VIDEO, start=0.2, duration=0.2, progress=lambda *step: told.append(step)
        )
        frames, fps, _ = run_node("TP_LoadDrivingVideo", video="demo: driving clip", start=0.2, duration=0.2)
        (detector,) = run_node("TP_LoadFaceDetector")
        (wanted,) = run_node("TP_MotionFromVideo", frames=frames, fps=fps, face_detector=detector)
        assert np.array_equal(read.expression, wanted.expression)
        assert told == [(number, 5) for number in range(1, 6)]
        again = tp.read_motion(as_frames(frames), fps=fps)
        assert np.array_equal(again.rotation, wanted.rotation)


class TestPortraits:
    def test_landmarks_beside_a_picture_are_taken(self, tmp_path, portrait):
        from PIL import Image
        from talking_portrait.runtime.input_files import DEMO_HEAD_FILE

        picture = tmp_path / "head.png"
        Image.open(DEMO_HEAD_FILE).save(picture)
        beside = DEMO_HEAD_FILE.with_name("made_head.landmarks.json")
        (tmp_path / "head.landmarks.json").write_bytes(beside.read_bytes())
        for loaded in (tp.load_portrait(picture), tp.load_portrait(str(picture), landmarks=beside)):
            assert np.array_equal(loaded.landmarks, portrait.landmarks)

    def test_an_array_with_known_landmarks(self, portrait):
        made = tp.load_portrait(portrait.frame, landmarks=portrait.landmarks, largest_side=128)
        assert made.size == (128, 128)
        assert np.allclose(made.landmarks[:, :2], (portrait.landmarks[:, :2] + 0.5) / 2 - 0.5, atol=0.01)

    def test_a_face_is_found(self, face_bundle, monkeypatch, astronaut):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
        known = tp.demo_portrait().landmarks
        for found in (
            tp.load_portrait(astronaut, face=0),
            tp.load_portrait(astronaut, box=(160, 60, 120, 140)),
        ):
            assert np.abs(found.landmarks - known)[:, :2].mean() < 4, "pixels"
        with pytest.raises(tp.FaceNotFoundError, match="no face"):
            tp.load_portrait(np.zeros((256, 256, 3), np.uint8))

    def test_a_missing_detector_says_what_fetches_it(self, tmp_path, monkeypatch, astronaut):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(tp.WeightNotFoundError, match="weights fetch face_landmarker"):
            tp.load_portrait(astronaut)

    def test_a_film_to_edit(self, face_bundle, monkeypatch, motion):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
        film = tp.load_portrait_video(tp.DEMO_DRIVING_VIDEO, duration=0.12, largest_side=256)
        assert (len(film.portraits), max(film.size)) == (3, 256)
        assert len(list(tp.render(tp.slice_motion(motion, 0, 0.12), film))) == 3


class TestVideos:
    def test_length_and_sound_follow_the_frame_clock(self, motion, portrait, word, tmp_path):
        path = tp.save_video(tmp_path / "talks.mp4", tp.render(motion, portrait, word))
        count = frame_count(word.duration, 25)
        assert sum(1 for _ in read_video_frames(path)) == count == motion.frame_count
        assert tp.load_sound(path).sample_count == sample_count(count, 25, word.sample_rate)

    def test_frames_are_drawn_as_they_are_asked_for(self, portrait):
        hours = tp.render(tp.FaceMotion.at_rest(10**6, 25.0), portrait)
        assert len(hours) == 10**6
        first = list(islice(hours, 2))
        assert np.array_equal(first[0], first[1])
        assert np.array_equal(next(iter(hours)), first[0]), "each iteration starts anew"

    def test_other_frames_with_their_rate(self, tmp_path, word):
        frames = [np.full((64, 64, 3), value, np.uint8) for value in (0, 120)]
        path = tp.save_video(
            tmp_path / "plain.mp4", iter(frames), fps=4, sound=word, metadata={"title": "two"}
        )
        assert [round(frame.mean(), -1) for frame in read_video_frames(path)] == [0, 120]
        with pytest.raises(ValueError, match="give their fps"):
            tp.save_video(tmp_path / "rateless.mp4", frames)

    def test_sound_that_outlasts_a_sampled_clip_is_refused(self, word):
        clip = tp.SampledVideo(tp.load_actalker(), {}, 12.5, 3)
        with pytest.raises(ValueError, match=r"0\.50 s, but the clip of 3 frames only 0\.24 s"):
            tp.render(clip, sound=word)

    def test_strengths_reach_the_renderer(self, motion, portrait):
        still = tp.render(motion, portrait, expression_strength=0.0, head_strength=0.0)
        moving = tp.render(motion, portrait)
        changes = [np.abs(np.diff(list(islice(one, 6)), axis=0)).mean() for one in (still, moving)]
        assert changes[0] < changes[1]


class TestSounds:
    def test_parts(self):
        whole = tp.load_sound(tp.DEMO_SPEECH)
        part = tp.load_sound(tp.DEMO_SPEECH, start=1.0, duration=0.5)
        first = whole.sample_rate
        assert np.array_equal(part.waveform, whole.waveform[:, first : first + whole.sample_rate // 2])

    @pytest.mark.parametrize(
        ("part", "message"),
        [
            ({"start": -1}, "start is -1 s"),
            ({"start": 99}, "no sound after 99 s"),
            ({"duration": 0}, "duration is 0 s"),
            ({"duration": float("nan")}, "duration is nan s"),
        ],
    )
    def test_impossible_parts(self, part, message):
        with pytest.raises(ValueError, match=message):
            tp.load_sound(tp.DEMO_SPEECH, **part)


class TestProgressAndCancelling:
    def test_each_frame_is_told(self, motion, portrait):
        told = []
        list(tp.render(motion, portrait, progress=lambda *step: told.append(step)))
        assert told == [(number, motion.frame_count) for number in range(1, motion.frame_count + 1)]

    def test_cancelling_leaves_nothing_and_work_may_begin_again(self, motion, portrait, word, tmp_path):
        def stop(done, total):
            if done == 3:
                thread = threading.Thread(target=tp.cancel)
                thread.start()
                thread.join()

        with pytest.raises(tp.WorkCancelledError):
            tp.save_video(tmp_path / "half.mp4", tp.render(motion, portrait, word, progress=stop))
        assert list(tmp_path.iterdir()) == []
        assert len(list(tp.render(motion, portrait))) == motion.frame_count

    @pytest.mark.parametrize("load", [tp.load_keypoint_diffusion, tp.load_actalker, tp.load_fantasytalking])
    def test_sampling_is_cancelled_once(self, load, word, portrait):
        model = load()
        speech = tp.embed(word, model)
        with pytest.raises(tp.WorkCancelledError):
            tp.sample(model, speech, portrait, progress=lambda done, total: tp.cancel())
        host().check_cancelled()

    def test_what_progress_raises_ends_the_work(self, pocket, word):
        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tp.sample(pocket, tp.embed(word), progress=stop)

    def test_inside_comfyui_its_own_cancel_is_named(self, monkeypatch):
        class Inside:
            in_comfyui = True

        monkeypatch.setattr(work, "host", Inside)
        with pytest.raises(RuntimeError, match="its own Cancel"):
            tp.cancel()


class TestMotions:
    def test_mixing_by_region(self, motion):
        other = tp.FaceMotion.at_rest(motion.frame_count, 25.0)
        still = tp.mix(motion, other, pose=1)
        assert np.allclose(still.rotation, 0, atol=1e-4)
        assert np.allclose(still.blendshape("jawOpen"), motion.blendshape("jawOpen"), atol=1e-6)
        later = tp.mix(motion, other, "0: jaw 0, 0.4: jaw 1").blendshape("jawOpen")
        assert np.allclose(later[-1], 0, atol=1e-6)
        assert np.allclose(later[0], motion.blendshape("jawOpen")[0], atol=0.05)

    def test_the_mesh_renderer_needs_no_fitting(self, motion, portrait):
        assert tp.stitch(motion, portrait) is motion
        assert tp.retarget(motion, portrait) is motion

    def test_emotions_over_time(self):
        over_time = tp.emotion("0: neutral, 2: happy 0.5")
        assert list(over_time.times) == [0, 2]
        assert np.array_equal(tp.emotion("happy 0.5").weights[0], over_time.weights[1])


class TestModels:
    def test_short_names(self):
        choices = ["pocket (embedded)", "KDTalker", "mine (2).safetensors"]
        assert models.full_choice("Pocket", choices) == choices[0]
        assert models.full_choice("kdtalker", choices) == choices[1]
        assert models.full_choice("mine (2).safetensors", choices) == choices[2]
        with pytest.raises(ValueError, match="no model 'mina'; here are: pocket"):
            models.full_choice("mina", choices)

    @pytest.mark.parametrize(
        ("load", "row"),
        [
            (lambda: tp.load_keypoint_diffusion("KDTalker"), "kdtalker"),
            (tp.load_liveportrait, "liveportrait"),
            (lambda: tp.load_actalker("ACTalker"), "actalker"),
            (lambda: tp.load_fantasytalking("wan 2.1 i2v 14b"), "wan"),
        ],
    )
    def test_missing_files_come_with_the_command(self, load, row, tmp_path, monkeypatch):
        for variable in ("TALKING_PORTRAIT_MODELS", "XDG_CACHE_HOME", "HF_HUB_CACHE"):
            monkeypatch.setenv(variable, str(tmp_path))
        with pytest.raises(tp.WeightNotFoundError, match=row):
            load()

    def test_a_file_that_the_script_names_may_lie_anywhere(self, tmp_path, monkeypatch):
        allowed, own = [], models.wan_models

        def pocket_instead(*_):
            allowed.append(set(host().allowed_files))
            return own("pocket (embedded)")

        monkeypatch.setattr(models, "wan_models", pocket_instead)
        file = tmp_path / "mine.safetensors"
        assert (
            tp.load_fantasytalking("Wan 2.1 I2V 14B", transformer_file=file).kind == "fantasytalking_pocket"
        )
        assert allowed == [{file.resolve()}]
        assert not host().allowed_files

    def test_loras_lie_anywhere_and_are_merged_in_order(self, tmp_path):
        pairs = drawn_pairs(
            new_wan_transformer(fantasytalking_parameters(find_weight("fantasytalking_pocket")).wan)
        )
        first, second = (
            written(tmp_path / name, pair_tensors(pairs)) for name in ("a.safetensors", "b.safetensors")
        )
        model = tp.load_fantasytalking(loras={first: np.float32(0.5), str(second): -1})
        assert [(file.path, file.strength) for file in model.adapter.low_rank_files] == [
            (str(first), 0.5),
            (str(second), -1.0),
        ]
        assert not host().allowed_files

    def test_a_lora_of_another_model_is_refused_before_anything_is_loaded(self, tmp_path):
        other = written(tmp_path / "other.safetensors", {"unet.x.lora_down.weight": torch.zeros(2, 3)})
        with pytest.raises(ValueError, match="No key of it is of a layer of Wan"):
            tp.load_fantasytalking(loras={other: 1.0})
        with pytest.raises(OSError, match=r"missing\.safetensors"):
            tp.load_fantasytalking(loras={tmp_path / "missing.safetensors": 1.0})


HANDLE = ModelHandle("nowhere", "nowhere")
KDTALKER = KeypointDiffusionModels("kdtalker", HANDLE, HANDLE, space="implicit_keypoints")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda given: tp.load_fantasytalking(loras=["x"]), TypeError, "expected the strength of each file"),
        (lambda given: tp.sample(3), ValueError, "int is not a model that samples"),
        (lambda given: tp.embed(given["word"], "pocket"), ValueError, "str is not a model"),
        (lambda given: tp.embed(given["word"], encoder="ear"), ValueError, "unknown audio encoder 'ear'"),
        (lambda given: tp.sample(given["pocket"]), ValueError, "motion is sampled from speech"),
        (
            lambda given: tp.sample(given["pocket"], given["speech"], sed=1),
            TypeError,
            "no setting sed; .* seed",
        ),
        (lambda given: tp.sample(given["pocket"], given["speech"], mouth=9), ValueError, "mouth is 9"),
        (lambda given: tp.sample(given["pocket"], given["speech"], emotion="glad"), ValueError, "'glad'"),
        (lambda given: tp.sample(KDTALKER, given["speech"]), ValueError, "renderer=load_liveportrait"),
        (lambda given: tp.sample(tp.load_actalker(), given["speech"]), ValueError, "give portrait="),
        (lambda given: tp.sample(tp.load_fantasytalking()), ValueError, "give portrait="),
        (
            lambda given: tp.sample(tp.load_actalker(), portrait=given["portrait"]),
            ValueError,
            "neither sound nor motion",
        ),
        (
            lambda given: tp.sample(tp.load_actalker(), given["speech"], given["portrait"], sed=1),
            TypeError,
            "sed",
        ),
        (lambda given: tp.render(given["motion"]), ValueError, "give portrait="),
        (
            lambda given: tp.render(
                tp.FaceMotion.at_rest(2, 25.0, "implicit_keypoints"),
                given["portrait"],
                renderer=RendererModels(),
            ),
            ValueError,
            "implicit",
        ),
        (
            lambda given: tp.render(tp.FaceMotion.at_rest(2, 25.0, "implicit_keypoints"), given["portrait"]),
            ValueError,
            "load_liveportrait",
        ),
        (lambda given: tp.mix(given["motion"], given["motion"]), ValueError, "no gate is given"),
        (lambda given: tp.mix(given["motion"], given["motion"], ears=1), ValueError, "ears"),
        (lambda given: tp.read_motion([]), ValueError, "give their fps"),
        (lambda given: tp.load_portrait("nowhere.jpg"), FileNotFoundError, "nowhere"),
        (
            lambda given: tp.save_video("talks.avi", tp.render(given["motion"], given["portrait"])),
            ValueError,
            "mp4",
        ),
    ],
)
def test_mistakes_are_named(call, error, message, word, pocket, motion, portrait):
    given = {"word": word, "pocket": pocket, "motion": motion, "portrait": portrait, "speech": tp.embed(word)}
    with pytest.raises(error, match=message):
        call(given)
