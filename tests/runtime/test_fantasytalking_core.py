"""FantasyTalking on ComfyUI's own models, decided without ComfyUI: what is patched, refused, heard and guided."""

from types import SimpleNamespace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import GuidanceSchedule
from talking_portrait.runtime import (
    fantasytalking_core,
    fantasytalking_core_guider,
    fantasytalking_core_weights,
)
from talking_portrait.runtime.fantasytalking_core import (
    SOUND,
    STREAMS_THAT_HEAR,
    SoundOptions,
    heard_clip,
    patched_model,
    sound_of,
)
from talking_portrait.runtime.fantasytalking_core_guider import new_guider
from talking_portrait.runtime.fantasytalking_core_weights import (
    OutsideComfyUIError,
    adapter_path,
    load_core_adapter,
)
from talking_portrait.runtime.weights import WeightNotFoundError

from .comfyui_stand_in import (
    BLOCKS,
    FRAMES,
    WIDTH,
    Attention,
    Patcher,
    embedding,
    new_adapter,
    new_model,
    patched,
    stand_in_comfyui,
)


@pytest.fixture
def inside(monkeypatch):
    """This process takes itself for ComfyUI."""
    monkeypatch.setattr(fantasytalking_core_weights, "host", lambda: SimpleNamespace(in_comfyui=True))
    with stand_in_comfyui(monkeypatch) as wan:
        yield wan


class TestPatching:
    def test_a_clone_is_patched_and_the_model_is_not(self, inside):
        model = new_model()
        clone, frames = patched(model)
        places = {f"diffusion_model.blocks.{n}.cross_attn.forward" for n in range(BLOCKS)}
        assert set(clone.object_patches) == places
        assert not model.object_patches
        assert not model.wrappers
        assert frames == 13
        assert sound_of(model) is None
        assert sound_of(clone).frames == FRAMES

    def test_the_weights_go_along_as_a_model_of_their_own(self, inside):
        adapter = new_adapter()
        clone, _ = patched_model(new_model(), adapter, embedding())
        (additional,) = clone.additional[SOUND]
        assert additional is not adapter.patcher
        assert additional.model is adapter.weights.branch

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (Patcher(torch.nn.Linear(1, 1)), "is a Linear, not a Wan"),
            (Patcher(SimpleNamespace(diffusion_model=torch.nn.Conv2d(1, 1, 1))), "is a Conv2d, not a Wan"),
            (new_model(blocks=3), "3 blocks of width 8, the audio weights fit 2 of width 8"),
            (new_model(dim=16), "2 blocks of width 16, the audio weights fit 2 of width 8"),
            (new_model(attention=torch.nn.Identity), "text-to-video model, or Wan2.2"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, inside, model, message):
        with pytest.raises(ValueError, match=message):
            patched(model)

    @pytest.mark.parametrize(
        "name",
        [
            "diffusion_model",
            "diffusion_model.blocks.1",
            "diffusion_model.blocks.1.cross_attn",
            "diffusion_model.blocks.1.cross_attn.forward",
        ],
    )
    def test_a_place_that_another_node_took_is_refused(self, inside, name):
        model = new_model()
        model.add_object_patch(name, torch.nn.Identity())
        with pytest.raises(ValueError, match=f"another node has replaced {name} "):
            patched(model)

    def test_places_beside_it_may_be_taken(self, inside):
        model = new_model()
        model.add_object_patch("diffusion_model.blocks.1.cross_attn.q", torch.nn.Identity())
        model.add_object_patch("diffusion_model.blocks.11.cross_attn.forward", torch.nn.Identity())
        assert len(patched(model)[0].object_patches) == BLOCKS + 2

    def test_a_method_replaced_in_the_network_is_refused(self, inside):
        model = new_model()
        model.model.diffusion_model.blocks[1].cross_attn.forward = lambda *_: None
        with pytest.raises(ValueError, match=r"something else has replaced .*blocks\.1\.cross_attn"):
            patched(model)

    def test_a_method_put_back_by_comfyui_is_not_a_replaced_one(self, inside):
        model = new_model()
        attention = model.model.diffusion_model.blocks[0].cross_attn
        attention.forward = attention.forward
        patched(model)

    def test_a_method_replaced_for_all_models_is_refused(self, inside, monkeypatch):
        def forward(self, x, context, context_img_len, transformer_options=None):
            return x

        forward.__module__ = "another_pack.speed"
        monkeypatch.setattr(Attention, "forward", forward)
        with pytest.raises(ValueError, match=r"another_pack\.speed has replaced"):
            patched()

    def test_a_comfyui_without_options_in_attention_is_refused(self, inside, monkeypatch):
        def forward(self, x, context, context_img_len):
            return x

        monkeypatch.setattr(Attention, "forward", forward)
        with pytest.raises(ValueError, match="too old"):
            patched()

    def test_twice_is_refused(self, inside):
        with pytest.raises(ValueError, match="hears a sound already"):
            patched(patched()[0])


class TestClip:
    def test_frames_cover_the_sound_at_its_own_pace(self, inside):
        short, long = (heard_clip(new_adapter(), embedding(seconds)) for seconds in (0.2, 2.0))
        assert (len(short.windows), len(long.windows)) == (2, 13)

    def test_chosen_frames_are_rounded_up(self, inside):
        assert len(heard_clip(new_adapter(), embedding(), SoundOptions(frames=14)).windows) == 5

    def test_another_rate_has_other_windows(self, inside):
        slow, fast = (
            heard_clip(new_adapter(), embedding(2.0), SoundOptions(frames=21, fps=fps)) for fps in (12.5, 25)
        )
        assert slow.windows.width > fast.windows.width

    def test_the_releases_timing_stretches_the_sound(self, inside):
        assert (
            patched_model(new_model(), new_adapter(), embedding(2.0), SoundOptions(timing="release"))[1] == 49
        )

    @pytest.mark.parametrize("audio", [embedding(encoder="whisper"), embedding(channels=4)])
    def test_another_encoder_is_refused(self, inside, audio):
        with pytest.raises(ValueError, match="choose wav2vec2 in Audio Embedding"):
            patched_model(new_model(), new_adapter(), audio)

    @pytest.mark.parametrize("options", [{"fps": 0.0}, {"timing": "other"}, {"frames": -3}])
    def test_options_out_of_range_are_refused(self, inside, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            patched(**options)


class TestHearing:
    SHAPE = (2, 36, FRAMES, 5, 6)

    def heard(self, shape=SHAPE, scale=1.0, masked=True, **options):
        clone, _ = patched(scale=scale, masked=masked)
        return sound_of(clone), sound_of(clone).heard(shape, (1, 2, 2), options)

    def test_whole_clips_hear_all(self, inside):
        sound, heard = self.heard()
        assert len(heard.tokens) == FRAMES
        assert heard.places == 3 * 3
        assert heard.scales.tolist() == [1.0, 1.0]
        assert heard.lengths is not None
        assert sound.hears

    def test_windows_hear_their_own_frames(self, inside):
        window = SimpleNamespace(index_list=[3, 0])
        sound, heard = self.heard((1, 36, 2, 4, 4), context_window=window)
        tokens, lengths = sound.clip.windows.of([3, 0])
        assert torch.equal(heard.tokens, tokens)
        assert torch.equal(heard.lengths, lengths)

    def test_windows_along_another_dimension_say_nothing_of_frames(self, inside):
        window = SimpleNamespace(index_list=[0, 1], dim=3)
        with pytest.raises(ValueError, match="nothing says which"):
            self.heard((1, 36, 2, 4, 4), context_window=window)

    def test_unmasked_windows_have_no_lengths(self, inside):
        assert self.heard(masked=False)[1].lengths is None

    def test_marks_say_which_elements_hear(self, inside):
        marks = {STREAMS_THAT_HEAR: (False, True), "cond_or_uncond": [1, 0]}
        assert self.heard(scale=0.5, **marks)[1].scales.tolist() == [0.5, 0.0]

    @pytest.mark.parametrize(
        "options", [{"scale": 0.0}, {STREAMS_THAT_HEAR: (False,), "cond_or_uncond": [0]}]
    )
    def test_where_nothing_is_heard_nothing_is_computed(self, inside, options):
        assert self.heard(**options)[1] is None

    def test_unknown_frames_are_refused(self, inside):
        with pytest.raises(ValueError, match="given 2 latent frames of 4 and nothing says which"):
            self.heard((1, 36, 2, 4, 4))

    def test_windows_beyond_the_sound_are_refused(self, inside):
        window = SimpleNamespace(index_list=[3, 4])
        with pytest.raises(
            ValueError, match=r"hold 5 frames \(17 of video\).*prepared for 4 \(13 of video\)"
        ):
            self.heard((1, 36, 2, 4, 4), context_window=window)

    def test_latents_of_another_length_are_refused_before_sampling(self, inside):
        sound = sound_of(patched()[0])
        with pytest.raises(ValueError, match="hold 6 frames"):
            sound.around_sampling(lambda noise: noise, torch.zeros(1, 16, 6, 2, 2))
        assert sound.around_sampling(lambda noise: "sampled", torch.zeros(1, 16, FRAMES, 2, 2)) == "sampled"

    def test_the_pictures_latents_of_a_window_are_cut_to_it(self, inside):
        sound = sound_of(patched()[0])
        concat = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
        options = {"context_window": SimpleNamespace(index_list=[1, 3])}

        def given(frames, options):
            x = torch.zeros(1, 16, frames, 2, 2)
            return sound.around_model(lambda *rest, **_: rest[2], x, None, concat, None, None, options)

        assert given(2, options).flatten().tolist() == [1, 3]
        assert given(4, {}) is concat


class Executor:
    """Stands for ComfyUI's executor of a network's wrappers, of which ours is the last."""

    def __init__(self, network):
        self.class_obj = network

    def __call__(self, x, timestep, context, clip_fea, concat, options, **rest):
        tokens = torch.ones(1, FRAMES, WIDTH)
        attention = self.class_obj.blocks[0].cross_attn
        return attention.forward(tokens, context, context_img_len=2, transformer_options=options)


def evaluated(clone, network):
    for name, forward in clone.object_patches.items():
        network.blocks[int(name.split(".")[2])].cross_attn.forward = forward
    latents = torch.zeros(1, 36, FRAMES, 2, 2)
    return sound_of(clone).around_network(Executor(network), latents, torch.ones(1), torch.ones(1, 5, WIDTH))


class TestEvaluation:
    def test_attention_hears_what_the_wrapper_says(self, inside):
        model = new_model()
        loud, quiet = (patched(model, scale=scale)[0] for scale in (1.0, 0.0))
        network = model.model.diffusion_model
        assert (evaluated(loud, network) - evaluated(quiet, network)).abs().max() > 1e-3

    def test_attention_past_the_wrapper_is_an_error(self, inside):
        forward = next(iter(patched()[0].object_patches.values()))
        with pytest.raises(RuntimeError, match="past ComfyUI's wrappers"):
            forward(torch.ones(1, FRAMES, WIDTH), torch.ones(1, 5, WIDTH), 2, {})

    def test_a_place_taken_afterwards_is_an_error(self, inside):
        model = new_model()
        clone, _ = patched(model)
        clone.add_object_patch("diffusion_model.blocks.1.cross_attn.forward", lambda *_: None)
        with pytest.raises(ValueError, match="another node after FantasyTalking for Wan"):
            evaluated(clone, model.model.diffusion_model)

    def test_cancel_is_looked_for_in_every_block(self, monkeypatch):
        def cancelled():
            raise InterruptedError

        monkeypatch.setattr(fantasytalking_core_weights, "host", lambda: SimpleNamespace(in_comfyui=True))
        with stand_in_comfyui(monkeypatch, interrupted=cancelled):
            model = new_model()
            with pytest.raises(InterruptedError):
                evaluated(patched(model)[0], model.model.diffusion_model)


class TestOutsideComfyUI:
    def test_one_sentence_says_why(self):
        works = (
            lambda: load_core_adapter("nowhere.ckpt"),
            lambda: patched_model(None, None, None),
            lambda: new_guider(None, None, None, GuidanceSchedule()),
        )
        for work in works:
            with pytest.raises(OutsideComfyUIError, match="runs in ComfyUI only"):
                work()


class TestWeights:
    def test_half_precision_stays_and_the_rest_follows_comfyui(self, inside, monkeypatch):
        for dtype in (torch.float16, torch.float32):
            adapter = new_adapter()
            adapter.weights.branch.to(dtype)
            monkeypatch.setattr(
                "talking_portrait.core_models.video_diffusion.fantasytalking.audio_adapter.load_audio_adapter",
                lambda path, linear, made=adapter: made.weights,
            )
            loaded = load_core_adapter("folder/some.ckpt")
            assert next(loaded.weights.branch.parameters()).dtype == dtype
            assert loaded.source == "some.ckpt"
            assert loaded.patcher.model is loaded.weights.branch

    @pytest.mark.parametrize("choice", ["automatic", "fantasytalking_model.ckpt"])
    def test_missing_weights_are_explained(self, choice, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(WeightNotFoundError, match="talking-portrait weights fetch fantasytalking"):
            adapter_path(choice)

    def test_any_form_that_is_here_will_do(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        (tmp_path / "fantasytalking_model.ckpt").write_bytes(b"x")
        assert adapter_path("automatic") == tmp_path / "fantasytalking_model.ckpt"

    def test_another_choice_is_refused(self):
        with pytest.raises(ValueError, match="no audio weights 'mine'"):
            adapter_path("mine")


def test_nothing_of_comfyui_is_imported_with_the_module():
    for module in (fantasytalking_core, fantasytalking_core_guider, fantasytalking_core_weights):
        assert not any(name == "comfy" or name.startswith("comfy.") for name in vars(module))
