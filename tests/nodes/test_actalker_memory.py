"""ACTalker's clips and memory: what is planned, refused and dropped, on a small model and a pretended accelerator."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion import frame_coding
from talking_portrait.core_models.video_diffusion.actalker.memory_plan import ClipSize, chunk_bytes
from talking_portrait.core_models.video_diffusion.actalker.performance import ACTalkerOptions
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import PreparedPicture
from talking_portrait.core_models.video_diffusion.autoencoder import autoencoder_parameters
from talking_portrait.runtime import actalker_clips, actalker_memory
from talking_portrait.runtime.actalker_models import parameters_of
from talking_portrait.runtime.model_cache import model_cache

PLENTY, LITTLE = 10**10, 45_000_000
"""Bytes in which the small model stays as a whole, and in which its blocks must come one at a time."""

pytestmark = pytest.mark.usefixtures("host_folders", "small_actalker_folder")


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes the device has free."""
    return lambda count: monkeypatch.setattr(actalker_memory, "bytes_for", lambda handles: count)


@pytest.fixture
def accelerator(monkeypatch):
    """What is planned is planned for a device that this machine does not have; networks stay on its own."""
    pretended = SimpleNamespace(in_comfyui=False, device=lambda requested="auto": torch.device("cuda:0"))
    monkeypatch.setattr(actalker_memory, "host", lambda: pretended)


def planned(actalker_graph, streams=None, **signals):
    picture = PreparedPicture(np.zeros((64, 64, 3), np.uint8), *[np.zeros((64, 64), np.float32)] * 3)
    control = actalker_graph.control(
        **(signals or {"audio_embeds": actalker_graph.heard()}), audio_guidance=7.5
    )
    options = ACTalkerOptions(identity_guidance=2.0)
    return actalker_memory.planned_clip(actalker_graph.models, picture, control, options, streams)


def forms_in_memory(actalker_graph):
    """Whether the model is offloaded, of each of its entries in the cache."""
    path = actalker_graph.models.model.path
    return [handle.cpu_offload for handle in model_cache().loaded_bytes() if handle.path == path]


class TestPlan:
    def test_is_logged_before_the_run(self, actalker_graph, caplog):
        caplog.set_level("INFO", "talking_portrait")
        actalker_graph.sample(actalker_graph.control(audio_embeds=actalker_graph.heard()), frames=1)
        window = parameters_of(actalker_graph.models).defaults.window
        assert f"one window of {window} frames at 64x64: weights" in caplog.text

    def test_a_clip_that_cannot_fit_is_refused_before_any_network_works(
        self, actalker_graph, free, monkeypatch
    ):
        control, identity = (
            actalker_graph.control(audio_embeds=actalker_graph.heard()),
            actalker_graph.identity(),
        )
        free(1_000_000)
        for network in ("actalker_autoencoder", "actalker_model"):
            monkeypatch.setattr(actalker_clips, network, lambda models: pytest.fail("a network was loaded"))
        with pytest.raises(ValueError, match=r"needs at least .* GB are free: .*(lower|smaller)"):
            actalker_graph.sample(control, identity=identity)

    def test_little_memory_means_blocks_one_at_a_time_on_an_accelerator(
        self, actalker_graph, free, accelerator
    ):
        free(PLENTY)
        models, streams = planned(actalker_graph)
        assert (models.model.cpu_offload, streams) == (False, 4)
        free(LITTLE)
        assert planned(actalker_graph)[0].model.cpu_offload

    def test_streams_that_were_chosen_are_what_is_planned_for(self, actalker_graph, free, accelerator):
        """With sound alone the fourth would equal the third, and is not evaluated."""
        free(PLENTY)
        assert [planned(actalker_graph, streams=streams)[1] for streams in (1, 2, 4)] == [1, 2, 3]
        free(LITTLE)
        with pytest.raises(ValueError, match=r"for 3 streams at once.*lower streams_at_once to [12]"):
            planned(actalker_graph, streams=4)
        with pytest.raises(ValueError, match=r"for 4 streams at once"):
            planned(
                actalker_graph,
                streams=4,
                audio_embeds=actalker_graph.heard(),
                motion_embeds=actalker_graph.moved(),
            )

    def test_where_memory_cannot_be_told_nothing_is_refused(self, actalker_graph, free):
        free(None)
        assert (
            actalker_graph.sample(actalker_graph.control(audio_embeds=actalker_graph.heard()), frames=1)[2]
            == 1
        )

    def test_the_form_of_the_last_clip_leaves_for_that_of_the_next(self, actalker_graph, free, accelerator):
        """Else the weights of both would lie in memory, though the first one's were counted as free."""
        control, clips = actalker_graph.control(audio_embeds=actalker_graph.heard()), []
        for count, offloaded in ((PLENTY, False), (LITTLE, True), (PLENTY, False)):
            free(count)
            clips.append(actalker_graph.sample(control, frames=1)[0]["samples"])
            assert forms_in_memory(actalker_graph) == [offloaded]
        assert torch.allclose(clips[0], clips[1], atol=1e-4)
        assert torch.equal(clips[0], clips[2])

    def test_what_is_in_use_stays(self, actalker_graph, free, accelerator):
        control = actalker_graph.control(audio_embeds=actalker_graph.heard())
        with actalker_clips.actalker_model(actalker_graph.models):
            free(LITTLE)
            actalker_graph.sample(control, frames=1)
            assert sorted(forms_in_memory(actalker_graph)) == [False, True]


class TestDecoding:
    @pytest.fixture
    def chunks(self, monkeypatch):
        """The chunks that were decoded in."""
        seen, decode = [], frame_coding.decoded_frames

        def spy(autoencoder, latents, chunk, *rest):
            seen.append(chunk)
            return decode(autoencoder, latents, chunk, *rest)

        monkeypatch.setattr(frame_coding, "decoded_frames", spy)
        return seen

    def decode(self, actalker_graph, frames=12, chunk=0):
        latent = {"samples": torch.zeros(frames, 4, 16, 16)}
        return actalker_graph.run(
            "TP_ACTalkerDecode", actalker=actalker_graph.models, latent=latent, chunk=chunk
        )[0]

    def needed(self, actalker_graph, chunk, frames=12):
        parameters = autoencoder_parameters(actalker_graph.models.autoencoder.path)
        return chunk_bytes(parameters, ClipSize(64, 64, frames, frames, 4), chunk)

    @pytest.mark.parametrize(("chunk", "above"), [(10, 0), (5, 0), (2, 1), (1, 0)])
    def test_takes_the_most_frames_that_fit(self, actalker_graph, free, chunks, caplog, chunk, above):
        caplog.set_level("INFO", "talking_portrait")
        free(self.needed(actalker_graph, chunk) + above)
        assert len(self.decode(actalker_graph)) == 12
        assert chunks == [chunk]
        assert f"decoding chunks of {chunk}: " in caplog.text

    def test_one_frame_is_tried_whatever_is_free(self, actalker_graph, free, chunks):
        free(1)
        self.decode(actalker_graph)
        assert chunks == [1]

    def test_short_clips_need_no_more_than_their_frames(self, actalker_graph, free, chunks):
        free(self.needed(actalker_graph, 3, frames=3))
        self.decode(actalker_graph, frames=3)
        assert chunks == [10]

    def test_what_was_chosen_and_what_cannot_be_told(self, actalker_graph, free, chunks):
        free(1)
        self.decode(actalker_graph, chunk=4)
        free(None)
        self.decode(actalker_graph)
        assert chunks == [4, 10]

    def test_the_model_leaves_only_when_its_memory_is_wanted(self, actalker_graph, monkeypatch, chunks):
        model_cache().clear()
        with actalker_clips.actalker_model(actalker_graph.models):
            pass
        wanted = self.needed(actalker_graph, 10)
        monkeypatch.setattr(
            actalker_memory, "bytes_for", lambda handles: wanted - len(forms_in_memory(actalker_graph))
        )
        self.decode(actalker_graph, frames=8)
        assert forms_in_memory(actalker_graph) == [False]
        self.decode(actalker_graph)
        assert forms_in_memory(actalker_graph) == []
        assert chunks == [10, 10]
