"""ACTalker in the graph, end to end on a small model with random weights: shapes, lengths, gates and every error."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.landmarker import DetectedFace
from talking_portrait.core_models.motion.expression_and_pose import ExpressionAndPoseNetworks
from talking_portrait.core_models.motion.expression_network import ExpressionNetworkParameters
from talking_portrait.core_models.motion.head_pose_network import HeadPoseNetworkParameters
from talking_portrait.core_models.types import (
    BLENDSHAPES,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    ModelHandle,
    PortraitVideo,
)
from talking_portrait.core_models.video_types import ACTalkerModels, Identity
from talking_portrait.runtime import actalker_clips
from talking_portrait.runtime.actalker_models import parameters_of
from talking_portrait.runtime.host import WorkCancelledError, host
from talking_portrait.runtime.progress import PreviewedProgress
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from .actalker_graph import FRAMES, Graph

HANDLE = ModelHandle("actalker", "nowhere")
PUBLISHED = ACTalkerModels("actalker", HANDLE, HANDLE, HANDLE, HANDLE)

pytestmark = pytest.mark.usefixtures("host_folders", "small_actalker_folder")


class TestClip:
    def test_runs_from_picture_and_signals_to_frames(self, actalker_graph):
        latent, fps, count = actalker_graph.sample(
            actalker_graph.control(audio_embeds=actalker_graph.heard(), motion_embeds=actalker_graph.moved())
        )
        assert (latent["samples"].shape, fps, count) == ((FRAMES, 4, 16, 16), 12.5, FRAMES)
        (frames,) = actalker_graph.run("TP_ACTalkerDecode", actalker=actalker_graph.models, latent=latent)
        assert frames.shape == (FRAMES, 64, 64, 3)
        assert frames.dtype == torch.float32
        assert 0 <= float(frames.min()) <= float(frames.max()) <= 1

    def test_each_signal_alone_is_enough(self, actalker_graph):
        for signal in ({"audio_embeds": actalker_graph.heard()}, {"motion_embeds": actalker_graph.moved()}):
            assert actalker_graph.sample(actalker_graph.control(**signal))[2] == FRAMES

    def test_a_seed_is_a_clip(self, actalker_graph):
        control = actalker_graph.control(audio_embeds=actalker_graph.heard())
        first, again, other = (actalker_graph.sample(control, seed=seed)[0]["samples"] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_sound_sets_the_length_and_shorter_motion_goes_back_and_forth(self, actalker_graph):
        control = actalker_graph.control(
            audio_embeds=actalker_graph.heard(), motion_embeds=actalker_graph.moved(0.08)
        )
        assert actalker_graph.sample(control)[2] == FRAMES

    def test_where_sound_is_shut_the_motion_sets_the_length(self, actalker_graph):
        signals = {"audio_embeds": actalker_graph.heard(), "motion_embeds": actalker_graph.moved(0.16)}
        assert actalker_graph.sample(actalker_graph.control(**signals, audio_gate=0.0))[2] == 2

    def test_one_frame(self, actalker_graph):
        latent, _, count = actalker_graph.sample(
            actalker_graph.control(audio_embeds=actalker_graph.heard()), frames=1
        )
        assert count == 1
        assert (
            actalker_graph.run("TP_ACTalkerDecode", actalker=actalker_graph.models, latent=latent)[0].shape[0]
            == 1
        )

    def test_odd_pictures_come_out_at_the_nearest_size(self, nodes):
        """161 x 97 at 64 pixels: 106 x 64, of which the wider side becomes 112."""
        square = draw_portrait(made_identity(5), 97)
        wide = replace(square, frame=np.pad(square.frame, ((0, 0), (0, 64), (0, 0)), mode="edge"))
        actalker_graph = Graph(nodes, wide)
        latent, *_ = actalker_graph.sample(
            actalker_graph.control(audio_embeds=actalker_graph.heard()), framing="whole picture", frames=2
        )
        assert latent["samples"].shape == (2, 4, 16, 28)

    def test_shut_motion_changes_nothing(self, actalker_graph):
        heard = actalker_graph.heard()
        alone = actalker_graph.sample(actalker_graph.control(audio_embeds=heard))[0]["samples"]
        signals = {"audio_embeds": heard, "motion_embeds": actalker_graph.moved(), "motion_gate": 0.0}
        assert torch.equal(actalker_graph.sample(actalker_graph.control(**signals))[0]["samples"], alone)

    def test_latents_are_what_core_vae_nodes_take(self, actalker_graph):
        """Not scaled: the model's own autoencoder decodes them as they are."""
        latent, *_ = actalker_graph.sample(
            actalker_graph.control(audio_embeds=actalker_graph.heard()), frames=2
        )
        (frames,) = actalker_graph.run(
            "TP_ACTalkerDecode", actalker=actalker_graph.models, latent=latent, overlap=0
        )
        with actalker_clips.actalker_autoencoder(actalker_graph.models) as autoencoder, torch.no_grad():
            decoded = autoencoder.decode(latent["samples"], num_frames=2).sample
        expected = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        assert torch.allclose(frames, expected, atol=1e-5)

    def test_own_values_are_those_of_the_model(self, actalker_graph):
        control = actalker_graph.control(audio_embeds=actalker_graph.heard())
        own = actalker_graph.sample(control, frames=2)[0]["samples"]
        defaults = parameters_of(actalker_graph.models).defaults
        said = {name: getattr(defaults, name) for name in ("window", "shift", "image_size")}
        said |= {"identity_guidance": defaults.guidance.identity}
        said |= dict(zip(("head_motion", "expression_motion"), defaults.motion_buckets, strict=True))
        assert torch.equal(actalker_graph.sample(control, frames=2, **said)[0]["samples"], own)
        assert not torch.equal(actalker_graph.sample(control, frames=2, head_motion=0.0)[0]["samples"], own)


class TestProgress:
    def test_every_window_of_every_step_and_a_picture_after_each_step(self, actalker_graph, monkeypatch):
        seen = []

        class Bar:
            def update(self, done, total=None, preview=None):
                seen.append((done, total, None if preview is None else preview.shape))

        control, identity = (
            actalker_graph.control(audio_embeds=actalker_graph.heard()),
            actalker_graph.identity(),
        )
        monkeypatch.setattr(type(host()), "progress", lambda self, total, node_id=None: Bar())
        actalker_graph.sample(control, identity=identity, steps=3)
        counts = sorted({done for done, _, _ in seen})
        window = parameters_of(actalker_graph.models).defaults.window
        windows = 3 * -(-(FRAMES + window) // window)
        assert counts == list(range(1, windows + 1))
        assert {total for _, total, _ in seen} == {windows}
        assert [shape for *_, shape in seen][-1] == (128, 4 * 128, 3)

    def test_cancel_ends_it_within_a_window(self, actalker_graph, monkeypatch):
        """Before the first window is done: nothing has been reported then."""
        control, identity = (
            actalker_graph.control(audio_embeds=actalker_graph.heard()),
            actalker_graph.identity(),
        )
        monkeypatch.setattr(PreviewedProgress, "update", lambda *_: pytest.fail("a window was finished"))
        host().cancel()
        try:
            with pytest.raises(WorkCancelledError):
                actalker_graph.sample(control, identity=identity, steps=50)
        finally:
            host().allow_work()


class TestController:
    def test_of_several_masks_the_union_counts(self, actalker_graph):
        face, mouth, motion = (torch.zeros(3, 8, 8) for _ in range(3))
        face[:] = 1
        mouth[0, 5, 2] = mouth[2, 5, 6] = 1
        control = actalker_graph.control((face, mouth, motion), audio_embeds=actalker_graph.heard())
        assert np.argwhere(control.mouth).tolist() == [[5, 2], [5, 6]]

    def test_gates_and_guidance_are_passed_on(self, actalker_graph):
        control = actalker_graph.control(
            audio_embeds=actalker_graph.heard(),
            audio_gate=0.3,
            motion_gate_over_time="0: 1, 2: 0",
            audio_guidance=4.0,
            regions="full",
        )
        assert control.audio_gate.values.tolist() == [pytest.approx(0.3)]
        np.testing.assert_allclose(control.motion_gate.on_frames(3, 1.0), [1, 0.5, 0])
        assert (control.audio_guidance, control.motion_guidance, control.regions) == (4.0, None, "full")

    def test_everything_shut_is_refused(self, actalker_graph):
        with pytest.raises(ValueError, match="open the audio gate or the motion gate"):
            actalker_graph.control(audio_embeds=actalker_graph.heard(), audio_gate=0.0)
        with pytest.raises(ValueError, match="neither sound nor motion"):
            actalker_graph.control()

    def test_masks_of_different_sizes_are_refused(self, actalker_graph):
        masks = torch.ones(1, 8, 8), torch.ones(1, 8, 8), torch.ones(1, 8, 9)
        with pytest.raises(ValueError, match="all three must be of one size"):
            actalker_graph.control(masks, audio_embeds=actalker_graph.heard())

    def test_masks_of_another_picture_are_refused(self, actalker_graph):
        masks = [torch.ones(1, 40, 50)] * 3
        with pytest.raises(ValueError, match="the face mask is 50 x 40 px, the portrait 96 x 96"):
            actalker_graph.sample(actalker_graph.control(masks, audio_embeds=actalker_graph.heard()))

    def test_a_sweep_gives_settings_one_after_the_other(self, actalker_graph):
        audio, motion, labels = actalker_graph.run("TP_GateSweep")
        assert list(zip(audio, motion, strict=True)) == [(1, 0), (0, 1), (1, 1), (0.5, 1)]
        assert labels[3] == "audio 0.5, motion 1"


def seen_face():
    from talking_portrait.core_models.face.topology import canonical_face

    points = np.zeros((478, 3), np.float32)
    points[:468] = canonical_face().vertices * [1, -1, 1] * 4
    points[:, :2] += 80
    return DetectedFace(points, np.zeros(52, np.float32), 1.0, (0.0, 0.0, 1.0, 1.0))


class KnownFace:
    """A landmarker that finds one face, unless the picture is black."""

    def detect(self, frame, *_, **__):
        return [seen_face()] if frame.any() else []

    def track(self, frame, previous):
        return next(iter(self.detect(frame)), None)


@pytest.fixture
def small_readers(monkeypatch):
    """Small networks in place of the published ones that read driving films, and faces that are known."""
    from talking_portrait.nodes import motion_sources

    torch.manual_seed(0)
    networks = ExpressionAndPoseNetworks(
        ExpressionNetworkParameters((1, 1), (4, 8), features=5),
        HeadPoseNetworkParameters((1, 1), (4, 8), groups=2),
    ).eval()

    @contextmanager
    def given(value):
        yield value

    monkeypatch.setattr(actalker_clips, "expression_and_pose_networks", lambda models: given(networks))
    monkeypatch.setattr(motion_sources, "face_landmarker", lambda detector: given(KnownFace()))


class TestMotionEmbedding:
    def test_a_motion_track_keeps_its_rate(self, actalker_graph):
        motion = actalker_graph.moved()
        assert (motion.features.shape, motion.fps, motion.encoder) == ((10, 64), 25.0, "blendshapes")

    def test_frames_of_a_film(self, actalker_graph, small_readers):
        film = torch.rand(3, 160, 160, 3, generator=torch.Generator().manual_seed(0))
        film[1] = 0
        given = {"actalker": PUBLISHED, "frames": film, "face_detector": HANDLE, "fps": 30.0}
        (filled,) = actalker_graph.run("TP_MotionEmbedding", **given)
        (skipped,) = actalker_graph.run("TP_MotionEmbedding", **given, on_missing_face="skip")
        assert (filled.features.shape, filled.fps, filled.encoder) == ((3, 11), 30.0, "expression_and_pose")
        assert len(skipped.features) == 2
        with pytest.raises(ValueError, match="no face in frame 1"):
            actalker_graph.run("TP_MotionEmbedding", **given, on_missing_face="error")

    def test_what_does_not_fit_the_model_names_the_node_that_does(
        self, actalker_graph, small_readers, monkeypatch
    ):
        motion, implicit = (FaceMotion.at_rest(3, 25.0, space) for space in (BLENDSHAPES, IMPLICIT_KEYPOINTS))
        with pytest.raises(ValueError, match="Load Driving Video"):
            actalker_graph.run("TP_MotionEmbedding", actalker=PUBLISHED, motion=motion)
        monkeypatch.undo()
        with pytest.raises(ValueError, match="Motion from Video"):
            actalker_graph.run(
                "TP_MotionEmbedding", actalker=actalker_graph.models, frames=torch.zeros(1, 8, 8, 3)
            )
        with pytest.raises(ValueError, match="blendshapes space but got implicit_keypoints"):
            actalker_graph.run("TP_MotionEmbedding", actalker=actalker_graph.models, motion=implicit)

    def test_either_and_not_both(self, actalker_graph):
        for inputs in ({}, {"motion": FaceMotion.at_rest(1, 25.0), "frames": torch.zeros(1, 8, 8, 3)}):
            with pytest.raises(ValueError, match="connect either motion"):
                actalker_graph.run("TP_MotionEmbedding", actalker=actalker_graph.models, **inputs)

    def test_frames_need_a_face_detector(self, actalker_graph, small_readers):
        with pytest.raises(ValueError, match="Load Face Detector"):
            actalker_graph.run("TP_MotionEmbedding", actalker=PUBLISHED, frames=torch.zeros(1, 8, 8, 3))


class TestBadInput:
    def test_a_film_is_no_portrait(self, actalker_graph, made_portrait):
        film = PortraitVideo((made_portrait, made_portrait), 25.0)
        for node_id in ("TP_IdentityEmbedding", "TP_ACTalkerSampler"):
            inputs = {"actalker": actalker_graph.models, "portrait": film}
            if node_id == "TP_ACTalkerSampler":
                inputs |= {
                    "identity": actalker_graph.identity(),
                    "control": actalker_graph.control(audio_embeds=actalker_graph.heard()),
                }
            with pytest.raises(ValueError, match="a film of 2 frames"):
                actalker_graph.run(node_id, **inputs)

    def test_an_identity_of_another_model(self, actalker_graph):
        stranger = Identity(np.zeros(512), np.zeros((1, 1, 3)), "arcface")
        with pytest.raises(ValueError, match=r"knows people by mine .*Identity Embedding"):
            actalker_graph.sample(
                actalker_graph.control(audio_embeds=actalker_graph.heard()), identity=stranger
            )

    def test_sound_heard_for_another_model(self, actalker_graph):
        sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
        (heard,) = actalker_graph.run("TP_AudioEmbedding", audio=sound, encoder="log_mel")
        with pytest.raises(ValueError, match=r"listens to pocket_listener.*choose automatic"):
            actalker_graph.sample(actalker_graph.control(audio_embeds=heard))

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"image_size": 8}, "below the model's least, 16 px"),
            ({"framing": "the moon"}, "framing is 'the moon'"),
            ({"streams_at_once": "9"}, "streams_at_once is '9'"),
            ({"window": 4, "overlap": 4}, "overlap is 4, expected 0..3"),
            ({"head_motion": -0.5}, "head_motion is -0.5"),
            ({"strength": 0.05}, "leaves none of 2 steps"),
        ],
    )
    def test_settings_out_of_range(self, actalker_graph, inputs, message):
        with pytest.raises(ValueError, match=message):
            actalker_graph.sample(actalker_graph.control(audio_embeds=actalker_graph.heard()), **inputs)

    def test_half_precision_that_overflows_says_what_to_choose(self, actalker_graph, monkeypatch):
        from talking_portrait.core_models.video_diffusion.actalker import sampler

        monkeypatch.setattr(sampler, "_guided", lambda _unet, noisy, *_: noisy / 0)
        with pytest.raises(FloatingPointError, match="choose bfloat16 or float32"):
            actalker_graph.sample(actalker_graph.control(audio_embeds=actalker_graph.heard()))

    def test_chunks_share_at_most_all_frames_but_one(self, actalker_graph):
        latent = {"samples": torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))}

        def decoded(chunk, overlap):
            inputs = {"latent": latent, "chunk": chunk, "overlap": overlap}
            return actalker_graph.run("TP_ACTalkerDecode", actalker=actalker_graph.models, **inputs)[0]

        for chunk in (1, 2):
            assert torch.equal(decoded(chunk, 2), decoded(chunk, chunk - 1))

    def test_latents_of_another_model(self, actalker_graph):
        for shape in ((1, 16, 8, 8), (1, 4, 2, 8, 8)):
            with pytest.raises(ValueError, match="connect ACTalker Sampler"):
                actalker_graph.run(
                    "TP_ACTalkerDecode",
                    actalker=actalker_graph.models,
                    latent={"samples": torch.zeros(shape)},
                )
