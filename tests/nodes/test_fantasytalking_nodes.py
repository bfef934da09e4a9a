"""FantasyTalking in the graph, end to end on a small model with random weights: shapes, lengths and every error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import ModelHandle, PortraitVideo
from talking_portrait.core_models.video_diffusion.fantasytalking import scene_options
from talking_portrait.core_models.video_diffusion.fantasytalking.conditions import IDENTITY_SCALE
from talking_portrait.core_models.video_diffusion.wan.autoencoder import decoded_chunks, raw_latents
from talking_portrait.core_models.wan_types import WanModels
from talking_portrait.runtime import fantasytalking_clips, fantasytalking_memory
from talking_portrait.runtime.fantasytalking_latents import autoencoder_name
from talking_portrait.runtime.fantasytalking_models import wan_autoencoder
from talking_portrait.runtime.host import WorkCancelledError, host
from talking_portrait.runtime.progress import PreviewedProgress
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from .fantasytalking_graph import FRAMES, Graph

pytestmark = pytest.mark.usefixtures("host_folders", "small_fantasytalking_folder")


class TestClip:
    def test_runs_from_picture_and_sound_to_frames(self, fantasytalking_graph):
        latent, fps, count = fantasytalking_graph.sample(audio_embeds=fantasytalking_graph.heard())
        assert (latent["samples"].shape, fps, count) == ((1, 4, 2, 4, 4), 12.5, FRAMES)
        frames = fantasytalking_graph.decode(latent)
        assert frames.shape == (FRAMES, 32, 32, 3)
        assert frames.dtype == torch.float32
        assert 0 <= float(frames.min()) <= float(frames.max()) <= 1

    def test_frames_that_only_fill_the_last_latent_are_cut_off(self, fantasytalking_graph):
        latent, _, count = fantasytalking_graph.sample(audio_embeds=fantasytalking_graph.heard(0.5))
        assert (latent["samples"].shape[2], count) == (3, 7)
        assert len(fantasytalking_graph.decode(latent)) == 7
        assert len(fantasytalking_graph.decode({"samples": latent["samples"]})) == 9

    def test_without_sound_a_number_of_frames_is_enough(self, fantasytalking_graph):
        latent, _, count = fantasytalking_graph.sample(frames=3)
        assert (latent["samples"].shape[2], count) == (2, 3)

    def test_longer_than_a_window(self, fantasytalking_graph):
        latent, _, count = fantasytalking_graph.sample(audio_embeds=fantasytalking_graph.heard(), frames=21)
        assert (latent["samples"].shape[2], count) == (6, 21)
        assert len(fantasytalking_graph.decode(latent)) == 21

    def test_everything_that_goes_in_changes_what_comes_out(self, fantasytalking_graph):
        heard = fantasytalking_graph.heard()
        plain = fantasytalking_graph.samples(audio_embeds=heard)
        intensity, _ = fantasytalking_graph.intensity(1.0, 0.0)
        others = {
            "the sound": {"audio_embeds": fantasytalking_graph.heard(pitch=0.7)},
            "who it is": {"audio_embeds": heard, "identity": fantasytalking_graph.identity()},
            "how much it moves": {"audio_embeds": heard, "motion_intensity": intensity},
            "the guidance": {"audio_embeds": heard, "audio_guidance": 1.0},
            "the seed": {"audio_embeds": heard, "seed": 5},
            "the framing": {"audio_embeds": heard, "framing": "around the face"},
        }
        for name, inputs in others.items():
            assert not torch.equal(fantasytalking_graph.samples(**inputs), plain), name
        assert torch.equal(fantasytalking_graph.samples(audio_embeds=heard), plain)

    def test_neutral_intensity_is_what_a_model_takes_by_itself(self, fantasytalking_graph):
        neutral, _ = fantasytalking_graph.intensity()
        given = {"audio_embeds": fantasytalking_graph.heard()}
        assert torch.equal(
            fantasytalking_graph.samples(**given, motion_intensity=neutral),
            fantasytalking_graph.samples(**given),
        )

    def test_no_scale_is_no_sound(self, fantasytalking_graph):
        silent = fantasytalking_graph.samples(frames=FRAMES)
        assert torch.allclose(
            fantasytalking_graph.samples(audio_embeds=fantasytalking_graph.heard(), audio_scale=0.0),
            silent,
            atol=1e-5,
        )

    def test_streams_together_are_the_same_clip(self, fantasytalking_graph):
        heard = fantasytalking_graph.heard()
        one, all_of_them = (
            fantasytalking_graph.samples(audio_embeds=heard, streams_at_once=count)
            for count in ("1", "automatic")
        )
        assert torch.allclose(one, all_of_them, atol=1e-4)

    def test_kept_keys_are_the_same_clip(self, fantasytalking_graph):
        heard = fantasytalking_graph.heard()
        kept = fantasytalking_graph.samples(audio_embeds=heard, keys_kept=True)
        assert torch.allclose(fantasytalking_graph.samples(audio_embeds=heard), kept, atol=1e-5)

    def test_small_models_do_not_read_the_prompt(self, fantasytalking_graph):
        heard = fantasytalking_graph.heard()
        inputs = {"audio_embeds": heard, "prompt": "A bear dances.", "prompt_guidance": 3.0}
        assert torch.equal(
            fantasytalking_graph.samples(audio_embeds=heard), fantasytalking_graph.samples(**inputs)
        )

    def test_odd_pictures_are_rounded_up(self, nodes):
        """97 x 161 at 32 pixels: 19 x 32, of which the narrower side becomes 24."""
        square = draw_portrait(made_identity(5), 97)
        tall = replace(square, frame=np.pad(square.frame, ((0, 64), (0, 0), (0, 0)), mode="edge"))
        assert Graph(nodes, tall).samples(frames=1).shape == (1, 4, 2, 4, 3)

    def test_the_clip_comes_with_progress_and_previews(self, fantasytalking_graph, monkeypatch):
        seen, update = [], PreviewedProgress.update

        def spied(self, done, total):
            seen.append((done, total, None if self._picture is None else self._picture.shape))
            update(self, done, total)

        monkeypatch.setattr(PreviewedProgress, "update", spied)
        fantasytalking_graph.sample(audio_embeds=fantasytalking_graph.heard(), steps=3)
        # Guidance by prompt is 1: two streams in each of three steps.
        assert sorted({done for done, *_ in seen}) in ([2, 4, 6], [1, 2, 3, 4, 5, 6])
        assert {total for _, total, _ in seen} == {6}
        assert seen[-1][2] == (128, 2 * 128, 3)

    def test_cancel_ends_it_within_a_step(self, fantasytalking_graph, monkeypatch):
        heard = fantasytalking_graph.heard()
        fantasytalking_graph.sample(audio_embeds=heard)  # encodes the picture
        monkeypatch.setattr(PreviewedProgress, "update", lambda *_: pytest.fail("a step was finished"))
        host().cancel()
        try:
            with pytest.raises(WorkCancelledError):
                fantasytalking_graph.sample(audio_embeds=heard, steps=50)
        finally:
            host().allow_work()


class TestLatents:
    def test_are_what_core_vae_decode_takes(self, fantasytalking_graph):
        """Not normalised: the model's own autoencoder decodes them as they are."""
        latent, *_ = fantasytalking_graph.sample(audio_embeds=fantasytalking_graph.heard())
        with wan_autoencoder(fantasytalking_graph.wan) as autoencoder, torch.no_grad():
            decoded = autoencoder.decode(latent["samples"]).sample[0]
        expected = (decoded / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)
        assert torch.allclose(fantasytalking_graph.decode(latent), expected, atol=1e-5)

    def test_are_those_of_diffusion_by_the_statistics(self, fantasytalking_graph):
        latent, *_ = fantasytalking_graph.sample(frames=1)
        from talking_portrait.core_models.video_diffusion.wan.core_latents import normalised_core_latents

        from ..small_fantasytalking import AUTOENCODER

        normalised = normalised_core_latents(latent["samples"], AUTOENCODER)
        with wan_autoencoder(fantasytalking_graph.wan) as autoencoder:
            raw = raw_latents(autoencoder, normalised[None])
        assert torch.allclose(raw, latent["samples"], atol=1e-6)

    def test_the_release_s_tiles_are_the_same_where_one_is_enough(self, fantasytalking_graph):
        latent, *_ = fantasytalking_graph.sample(frames=5)
        assert torch.allclose(
            fantasytalking_graph.decode(latent),
            fantasytalking_graph.decode(latent, tiling="release"),
            atol=1e-6,
        )

    def test_colour_keeping_brings_a_drift_back(self, fantasytalking_graph):
        """Latents that drift away: with the correction the frames' mean stays nearer to the picture's."""
        latent, *_ = fantasytalking_graph.sample(frames=17)
        drift = torch.linspace(0, 3, 5)[None, None, :, None, None]
        moved = {**latent, "samples": latent["samples"] + drift}
        wanted = (latent["reference_colour"].mean / 2 + 0.5).numpy()

        def distance(keeping):
            last = fantasytalking_graph.decode(moved, colour_keeping=keeping)[-8:].mean(dim=(0, 1, 2)).numpy()
            return np.abs(last - wanted).max()

        assert distance(1.0) < distance(0.5) < distance(0.0)

    def test_those_of_another_model_are_refused(self, fantasytalking_graph):
        for shape in ((1, 16, 2, 4, 4), (2, 4, 2, 4, 4), (4, 2, 4, 4)):
            with pytest.raises(ValueError, match=r"expected \(1, 4, frames, height, width\)"):
                fantasytalking_graph.decode({"samples": torch.zeros(shape)})
        counted = {"frame_count": 9, "latent_frame_count": 2}
        with pytest.raises(ValueError, match="9 frames are to be kept, but the latents hold 5"):
            fantasytalking_graph.decode({"samples": torch.zeros(1, 4, 2, 4, 4), **counted})
        with pytest.raises(ValueError, match="tiling is 'small'"):
            fantasytalking_graph.decode({"samples": torch.zeros(1, 4, 2, 4, 4)}, tiling="small")

    def test_joined_or_cut_all_their_frames_are_kept(self, fantasytalking_graph, caplog):
        """Core's LatentConcat and LatentCut hand on what else the first LATENT holds as it was."""
        caplog.set_level("INFO", "talking_portrait")
        latent, _, count = fantasytalking_graph.sample(frames=7)
        assert len(fantasytalking_graph.decode(latent)) == count == 7
        assert "all are decoded" not in caplog.text
        joined = {**latent, "samples": torch.cat([latent["samples"]] * 2, dim=2)}
        assert len(fantasytalking_graph.decode(joined)) == 4 * (6 - 1) + 1
        assert "the latents hold 6 frames, of which 3 were counted" in caplog.text
        cut = {**latent, "samples": latent["samples"][:, :, :1]}
        assert len(fantasytalking_graph.decode(cut)) == 1

    def test_another_model_s_are_refused_by_their_mark(self, fantasytalking_graph, hearing_graph):
        """Their shape is the same, as that of the published model's and the pocket model's is."""
        latent, *_ = fantasytalking_graph.sample(frames=5)
        with pytest.raises(
            ValueError, match=r"autoencoder \(mine_.*\(hearing_.*connect the model that sampled"
        ):
            hearing_graph.decode(latent)
        for mark, refused in (("Wan 2.1's", True), (None, False)):
            given = {**latent, "autoencoder": mark}
            if refused:
                with pytest.raises(ValueError, match=r"another model's autoencoder \(Wan 2\.1's\)"):
                    fantasytalking_graph.decode(given)
            else:
                assert len(fantasytalking_graph.decode(given)) == 5

    def test_all_files_of_the_published_autoencoder_are_one(self):
        handles = [ModelHandle("vae", path) for path in ("Wan2.1_VAE.pth", "wan_2.1_vae.safetensors")]
        names = {autoencoder_name(WanModels("wan", one, one)) for one in handles}
        pocket = WanModels("wan_pocket", handles[0], ModelHandle("pocket", "folder/pocket.safetensors"))
        assert names == {"Wan 2.1's"}
        assert autoencoder_name(pocket) == "pocket.safetensors"

    def test_frames_that_main_memory_cannot_hold_are_refused(self, fantasytalking_graph, monkeypatch):
        """Before anything is sampled, and before decoding: 5 frames of 32x32 are 61,440 bytes."""
        latent, *_ = fantasytalking_graph.sample(frames=5)
        for free, fits in ((5 * 32 * 32 * 12, True), (5 * 32 * 32 * 12 - 1, False), (None, True)):
            monkeypatch.setattr(fantasytalking_memory, "available_main_memory", lambda free=free: free)
            if fits:
                assert len(fantasytalking_graph.decode(latent)) == 5
                continue
            for work in (
                lambda: fantasytalking_graph.decode(latent),
                lambda: fantasytalking_graph.sample(frames=5),
            ):
                with pytest.raises(
                    ValueError, match=r"5 frames of 32x32 .* enough for 4: choose fewer frames"
                ):
                    work()

    def test_overflow_says_what_to_choose(self, fantasytalking_graph):
        with pytest.raises(FloatingPointError, match="in float32: sample again with lower guidance"):
            fantasytalking_graph.decode({"samples": torch.full((1, 4, 1, 4, 4), torch.inf)})

    def test_cancel_ends_decoding(self, fantasytalking_graph):
        host().cancel()
        try:
            with pytest.raises(WorkCancelledError):
                fantasytalking_graph.decode({"samples": torch.zeros(1, 4, 3, 4, 4)})
        finally:
            host().allow_work()

    def test_decoding_does_not_go_on_after_the_clip(self, fantasytalking_graph, monkeypatch):
        decoded = []

        def counted(*inputs):
            for chunk in decoded_chunks(*inputs):
                decoded.append(chunk.shape[1])
                yield chunk

        monkeypatch.setattr(
            "talking_portrait.core_models.video_diffusion.wan.clip_frames.decoded_chunks", counted
        )
        counted = {"frame_count": 3, "latent_frame_count": 4}
        fantasytalking_graph.decode({"samples": torch.zeros(1, 4, 4, 4, 4), **counted})
        assert decoded == [1, 4]


class TestBadInput:
    def test_a_film_is_no_portrait(self, fantasytalking_graph, made_portrait):
        film = PortraitVideo((made_portrait, made_portrait), 25.0)
        with pytest.raises(ValueError, match=r"FantasyTalking moves a single picture.*2 frames"):
            fantasytalking_graph.sample(portrait=film, frames=5)
        with pytest.raises(ValueError, match="FantasyTalking moves a single picture"):
            fantasytalking_graph.identity(film)

    def test_sound_heard_for_another_model(self, fantasytalking_graph):
        sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
        (heard,) = fantasytalking_graph.run("TP_AudioEmbedding", audio=sound, encoder="log_mel")
        with pytest.raises(ValueError, match=r"listens to pocket_listener.*choose automatic"):
            fantasytalking_graph.sample(audio_embeds=heard)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"frames": 0}, "there is no sound to last as long as"),
            ({"image_size": 8}, "below the model's least, 16 px"),
            ({"framing": "the moon"}, "framing is 'the moon'"),
            ({"streams_at_once": "9"}, "streams_at_once is '9'"),
            ({"window": 8}, "there are 8 frames.*use 9"),
            ({"window": 9, "overlap": 2, "frames": 21}, "cannot overlap by 2"),
            ({"overlap": -2}, "overlap is -2, expected 0 or more"),
            ({"prompt_guidance": -0.5}, "prompt_guidance is -0.5"),
            ({"audio_start": 0.8, "audio_end": 0.2}, "guidance from 0.8 to 0.2"),
            ({"timing": "late"}, "timing is 'late'"),
            ({"hearing": "never"}, "hearing is 'never'"),
            ({"first_block_cache": 1.0}, "first_block_cache is 1.0"),
            ({"first_block_cache": 0.1, "frames": 21}, "clip of one window"),
        ],
    )
    def test_settings_out_of_range(self, fantasytalking_graph, inputs, message):
        with pytest.raises(ValueError, match=message):
            fantasytalking_graph.sample(**{"frames": 5, **inputs})

    def test_guidance_of_nothing_is_a_number_like_others(self, fantasytalking_graph):
        heard = fantasytalking_graph.heard()
        assert torch.allclose(
            fantasytalking_graph.samples(audio_embeds=heard, audio_guidance=0.0, prompt_guidance=0.0),
            fantasytalking_graph.samples(frames=FRAMES),
            atol=1e-5,
        )

    def test_attention_that_is_not_here_says_what_to_choose(self, fantasytalking_graph):
        (wan,) = fantasytalking_graph.run("TP_LoadWan", model="mine.safetensors", attention="sage")
        (models,) = fantasytalking_graph.run("TP_LoadFantasyTalking", wan=wan)
        with pytest.raises(ValueError, match="attention 'sage' cannot be used on this computer"):
            fantasytalking_graph.run(
                "TP_FantasyTalkingSampler",
                fantasytalking=models,
                portrait=fantasytalking_graph.portrait,
                frames=1,
            )


def test_choices_and_defaults_are_those_of_the_sampler(nodes):
    """They are said twice: nodes are listed without the networks' code."""
    assert fantasytalking_clips.TIMINGS == scene_options.TIMINGS
    assert fantasytalking_clips.HEARINGS == scene_options.HEARINGS
    types = nodes["TP_FantasyTalkingSampler"].INPUT_TYPES()
    assert types["required"]["seed"][1]["default"] == scene_options.RELEASE_SEED
    assert types["optional"]["identity_scale"][1]["default"] == IDENTITY_SCALE


def test_listing_the_nodes_needs_no_network_code():
    """A second of waiting for every start otherwise."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from talking_portrait.nodes import NODE_CLASS_MAPPINGS as nodes\n"
        "[nodes[name].INPUT_TYPES() for name in nodes if 'Wan' in name or 'Fantasy' in name or 'Intensity' in name]\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
