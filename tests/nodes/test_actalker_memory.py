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
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from .actalker_graph import Graph, small_actalker_here

PLENTY, LITTLE = 10**10, 45_000_000
"""Bytes in which the small model stays as a whole, and in which its blocks must come one at a time."""

pytestmark = pytest.mark.usefixtures("host_folders")


@pytest.fixture(scope="module", autouse=True)
def models_folder(tmp_path_factory):
    with small_actalker_here(tmp_path_factory.mktemp("models")) as folder:
        yield folder


@pytest.fixture(scope="module")
def portrait():
    return draw_portrait(made_identity(5), 96)


@pytest.fixture
def graph(nodes, portrait):
    return Graph(nodes, portrait)


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes the device has free."""
    return lambda count: monkeypatch.setattr(actalker_memory, "bytes_for", lambda handles: count)


@pytest.fixture
def accelerator(monkeypatch):
    """What is planned is planned for a device that this machine does not have; networks stay on its own."""
    pretended = SimpleNamespace(in_comfyui=False, device=lambda requested="auto": torch.device("cuda:0"))
    monkeypatch.setattr(actalker_memory, "host", lambda: pretended)


def planned(graph, streams=None, **signals):
    picture = PreparedPicture(np.zeros((64, 64, 3), np.uint8), *[np.zeros((64, 64), np.float32)] * 3)
    control = graph.control(**(signals or {"audio_embeds": graph.heard()}), audio_guidance=7.5)
    options = ACTalkerOptions(identity_guidance=2.0)
    return actalker_memory.planned_clip(graph.models, picture, control, options, streams)


def forms_in_memory(graph):
    """Whether the model is offloaded, of each of its entries in the cache."""
    path = graph.models.model.path
    return [handle.cpu_offload for handle in model_cache().loaded_bytes() if handle.path == path]


class TestPlan:
    def test_is_logged_before_the_run(self, graph, caplog):
        caplog.set_level("INFO", "talking_portrait")
        graph.sample(graph.control(audio_embeds=graph.heard()), frames=1)
        window = parameters_of(graph.models).defaults.window
        assert f"one window of {window} frames at 64x64: weights" in caplog.text

    def test_a_clip_that_cannot_fit_is_refused_before_any_network_works(self, graph, free, monkeypatch):
        control, identity = graph.control(audio_embeds=graph.heard()), graph.identity()
        free(1_000_000)
        for network in ("actalker_autoencoder", "actalker_model"):
            monkeypatch.setattr(actalker_clips, network, lambda models: pytest.fail("a network was loaded"))
        with pytest.raises(ValueError, match=r"needs at least .* GB are free: .*(lower|smaller)"):
            graph.sample(control, identity=identity)

    def test_little_memory_means_blocks_one_at_a_time_on_an_accelerator(self, graph, free, accelerator):
        free(PLENTY)
        models, streams = planned(graph)
        assert (models.model.cpu_offload, streams) == (False, 4)
        free(LITTLE)
        assert planned(graph)[0].model.cpu_offload

    def test_streams_that_were_chosen_are_what_is_planned_for(self, graph, free, accelerator):
        """With sound alone the fourth would equal the third, and is not evaluated."""
        free(PLENTY)
        assert [planned(graph, streams=streams)[1] for streams in (1, 2, 4)] == [1, 2, 3]
        free(LITTLE)
        with pytest.raises(ValueError, match=r"for 3 streams at once.*lower streams_at_once to [12]"):
            planned(graph, streams=4)
        with pytest.raises(ValueError, match=r"for 4 streams at once"):
            planned(graph, streams=4, audio_embeds=graph.heard(), motion_embeds=graph.moved())

    def test_where_memory_cannot_be_told_nothing_is_refused(self, graph, free):
        free(None)
        assert graph.sample(graph.control(audio_embeds=graph.heard()), frames=1)[2] == 1

    def test_the_form_of_the_last_clip_leaves_for_that_of_the_next(self, graph, free, accelerator):
        """Else the weights of both would lie in memory, though the first one's were counted as free."""
        control, clips = graph.control(audio_embeds=graph.heard()), []
        for count, offloaded in ((PLENTY, False), (LITTLE, True), (PLENTY, False)):
            free(count)
            clips.append(graph.sample(control, frames=1)[0]["samples"])
            assert forms_in_memory(graph) == [offloaded]
        assert torch.allclose(clips[0], clips[1], atol=1e-4)
        assert torch.equal(clips[0], clips[2])

    def test_what_is_in_use_stays(self, graph, free, accelerator):
        control = graph.control(audio_embeds=graph.heard())
        with actalker_clips.actalker_model(graph.models):
            free(LITTLE)
            graph.sample(control, frames=1)
            assert sorted(forms_in_memory(graph)) == [False, True]


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

    def decode(self, graph, frames=12, chunk=0):
        latent = {"samples": torch.zeros(frames, 4, 16, 16)}
        return graph.run("TP_ACTalkerDecode", actalker=graph.models, latent=latent, chunk=chunk)[0]

    def needed(self, graph, chunk, frames=12):
        parameters = autoencoder_parameters(graph.models.autoencoder.path)
        return chunk_bytes(parameters, ClipSize(64, 64, frames, frames, 4), chunk)

    @pytest.mark.parametrize(("chunk", "above"), [(10, 0), (5, 0), (2, 1), (1, 0)])
    def test_takes_the_most_frames_that_fit(self, graph, free, chunks, caplog, chunk, above):
        caplog.set_level("INFO", "talking_portrait")
        free(self.needed(graph, chunk) + above)
        assert len(self.decode(graph)) == 12
        assert chunks == [chunk]
        assert f"decoding chunks of {chunk}: " in caplog.text

    def test_one_frame_is_tried_whatever_is_free(self, graph, free, chunks):
        free(1)
        self.decode(graph)
        assert chunks == [1]

    def test_short_clips_need_no_more_than_their_frames(self, graph, free, chunks):
        free(self.needed(graph, 3, frames=3))
        self.decode(graph, frames=3)
        assert chunks == [10]

    def test_what_was_chosen_and_what_cannot_be_told(self, graph, free, chunks):
        free(1)
        self.decode(graph, chunk=4)
        free(None)
        self.decode(graph)
        assert chunks == [4, 10]

    def test_the_model_leaves_only_when_its_memory_is_wanted(self, graph, monkeypatch, chunks):
        model_cache().clear()
        with actalker_clips.actalker_model(graph.models):
            pass
        wanted = self.needed(graph, 10)
        monkeypatch.setattr(
            actalker_memory, "bytes_for", lambda handles: wanted - len(forms_in_memory(graph))
        )
        self.decode(graph, frames=8)
        assert forms_in_memory(graph) == [False]
        self.decode(graph)
        assert forms_in_memory(graph) == []
        assert chunks == [10, 10]
