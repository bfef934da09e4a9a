"""Wan LoRA: a LoRA file on the connected Wan, in the graph, the shared cache and the headless runner; every error."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.wan.float8_linear import Float8Linear
from talking_portrait.core_models.wan_types import WAN, WanModels
from talking_portrait.headless.command_line import main
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.workflow_files import workflow_from_object
from talking_portrait.runtime.block_streaming import keep_blocks_in_main_memory
from talking_portrait.runtime.fantasytalking_models import fantasytalking_model
from talking_portrait.runtime.input_files import ForbiddenPathError
from talking_portrait.runtime.wan_low_rank import with_low_rank_file

from ..small_fantasytalking import PARAMETERS
from ..small_low_rank import drawn_pairs, pair_tensors, written
from .fantasytalking_graph import Graph
from .shipped_workflows import api_form

pytestmark = pytest.mark.usefixtures("host_folders", "small_fantasytalking_folder")


@pytest.fixture(scope="module")
def pairs():
    return drawn_pairs(FantasyTalkingModel(PARAMETERS).transformer)


@pytest.fixture(scope="module")
def style(small_fantasytalking_folder, pairs):
    """A LoRA of the small model, style.safetensors in the loras folder."""
    return written(small_fantasytalking_folder / "loras" / "style.safetensors", pair_tensors(pairs))


@pytest.fixture
def graph(fantasytalking_graph, style):
    return fantasytalking_graph


def with_lora(graph, lora="style.safetensors", strength=1.0, wan=None):
    """(the wan, the model on it) behind the node."""
    (wan,) = graph.run("TP_WanLoRA", wan=wan or graph.wan, lora=lora, strength=strength)
    (models,) = graph.run("TP_LoadFantasyTalking", wan=wan)
    return wan, models


class TestHandles:
    def test_it_names_the_file_its_strength_and_its_version(self, graph, style):
        wan, models = with_lora(graph, strength=0.5)
        (found,) = wan.transformer.low_rank_files
        assert (found.path, found.strength) == (str(style), 0.5)
        assert found.stamp
        assert models.adapter is wan.transformer
        assert replace(wan, transformer=graph.wan.transformer) == graph.wan
        assert graph.wan.transformer.low_rank_files == ()

    def test_a_name_and_a_path_are_the_same(self, graph, style):
        assert (
            with_lora(graph)
            == with_lora(graph, f" {style} ")
            == with_lora(graph, "../loras/style.safetensors")
        )

    def test_strength_0_is_the_wan_as_it_was(self, graph):
        assert with_lora(graph, strength=0.0)[0] is graph.wan
        with pytest.raises(FileNotFoundError):
            with_lora(graph, "none.safetensors", 0.0)

    def test_a_file_replaced_under_its_name_is_another(self, graph, style, nodes, pairs):
        path, changed = style.with_name("own.safetensors"), nodes["TP_WanLoRA"].IS_CHANGED
        written(path, pair_tensors(pairs))
        before, stamp = with_lora(graph, "own.safetensors"), changed("own.safetensors")
        assert (with_lora(graph, "own.safetensors"), changed("own.safetensors")) == (before, stamp)
        written(path, pair_tensors(pairs, form="{}"))
        assert with_lora(graph, "own.safetensors") != before
        assert changed("own.safetensors") not in (stamp, "")
        assert changed("none.safetensors") == changed("") == changed() == ""

    def test_the_published_wan_takes_it_by_its_sizes(self, small_fantasytalking_folder):
        """Nothing but the header is read: the Wan itself is not here."""
        pair = {"blocks.39.cross_attn.k_img": (torch.zeros(2, 5120), torch.zeros(5120, 2))}
        written(small_fantasytalking_folder / "loras" / "few_steps.safetensors", pair_tensors(pair))
        handle = ModelHandle("wan", "none.safetensors", "bfloat16")
        wan = with_low_rank_file(WanModels(WAN, handle, handle), "few_steps.safetensors", 0.8)
        assert wan.transformer.low_rank_files[0].strength == 0.8
        assert (wan.autoencoder, wan.kind) == (handle, WAN)


class TestNetworks:
    def network(self, models):
        with fantasytalking_model(models) as network:
            return network

    def test_the_cache_keeps_strengths_apart_and_has_each_once(self, graph):
        plain, half = graph.models, with_lora(graph, strength=0.5)[1]
        loaded = self.network(half)
        assert self.network(with_lora(graph, strength=0.5)[1]) is loaded
        others = [self.network(plain), self.network(with_lora(graph, strength=1.0)[1])]
        assert all(one is not loaded for one in others)
        assert self.network(with_lora(graph, strength=0.0)[1]) is self.network(plain)

    def test_its_weights_are_the_sums_and_nothing_else_changes(self, graph, pairs):
        """Two in a row add up."""
        plain, wan = self.network(graph.models).state_dict(), with_lora(graph, strength=0.5)[0]
        found = self.network(with_lora(graph, strength=-2.0, wan=wan)[1]).state_dict()
        added = {f"transformer.{layer}.weight": -1.5 * up @ down for layer, (down, up) in pairs.items()}
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value + added[name] if name in added else value, msg=name)

    def test_in_8_bits_it_is_merged_first(self, graph):
        (packed,) = graph.run("TP_LoadWan", model="mine.safetensors", eight_bit_weights=True)
        found, whole = (self.network(with_lora(graph, wan=wan)[1]) for wan in (packed, graph.wan))
        layer, wanted = (one.transformer.blocks[0].attn1.to_q for one in (found, whole))
        assert isinstance(layer, Float8Linear)
        error = (layer.weight.float() * layer.weight_scale - wanted.weight).abs()
        assert bool((error <= wanted.weight.abs().amax(1, keepdim=True) / 16).all())
        assert isinstance(found.transformer.blocks[1].ffn.net[2], Float8Linear)

    def test_streamed_by_block_it_is_the_same(self, graph):
        models = with_lora(graph)[1]
        loaded = self.network(replace(models, adapter=replace(models.adapter, stamp="again")))
        wanted = {name: value.clone() for name, value in loaded.state_dict().items()}
        keep_blocks_in_main_memory(loaded, loaded.transformer.blocks, "cpu")
        assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())


class TestClips:
    def test_a_clip_is_that_of_a_model_with_the_sums_in_its_file(
        self, graph, nodes, pairs, small_fantasytalking_folder
    ):
        source = small_fantasytalking_folder / "fantasytalking" / "mine.safetensors"
        tensors = load_file(source)
        for layer, (down, up) in pairs.items():
            tensors[f"transformer.{layer}.weight"] += up @ down
        with safe_open(source, "pt") as file:
            written(source.with_name("sums.safetensors"), tensors, file.metadata())
        ending = "_autoencoder.safetensors"
        shutil.copy(source.with_name(f"mine{ending}"), source.with_name(f"sums{ending}"))
        wanted = Graph(nodes, graph.portrait, "sums.safetensors").samples(frames=5, steps=2)
        found = graph.samples(fantasytalking=with_lora(graph)[1], frames=5, steps=2)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found, graph.samples(frames=5, steps=2), atol=1e-2)

    def test_the_headless_runner_saves_other_frames_with_it(self, graph, tmp_path):
        def frames(strength):
            chain = api_graph(strength)
            run = LocalRunner().run(
                prepared_workflow(workflow_from_object(chain)), output_folder=tmp_path / "o"
            )
            return np.stack([np.asarray(Image.open(path)) for path in run.saved]).astype(int)

        plain, same, styled = frames(None), frames(0.0), frames(1.0)
        assert plain.shape == (5, 32, 32, 3)
        assert (plain == same).all()
        assert np.abs(plain - styled).mean() > 0.5


def api_graph(strength, lora="style.safetensors"):
    """The shipped graph from a made head to frames, without sound; strength None leaves the node out."""
    shipped = api_form("fantasytalking_audio")
    graph = {name: shipped[name] for name in ("1", "3", "35", "36", "38", "39")}
    graph["35"]["inputs"]["model"] = "mine.safetensors"
    for name in ("audio_embeds", "identity", "motion_intensity"):
        del graph["38"]["inputs"][name]
    graph["38"]["inputs"] |= {"framing": "whole picture", "steps": 1, "frames": 5}
    graph["40"] = {"class_type": "SaveImage", "inputs": {"images": ["39", 0], "filename_prefix": "x"}}
    if strength is not None:
        inputs = {"wan": ["35", 0], "lora": lora, "strength": strength}
        graph["50"] = {"class_type": "TP_WanLoRA", "inputs": inputs}
        graph["36"]["inputs"]["wan"] = ["50", 0]
    return graph


class TestFaults:
    @pytest.mark.parametrize(
        ("lora", "message"),
        [
            ("", "name a LoRA file"),
            (" ", "name a LoRA file"),
            ("none.safetensors", "there is no weight file none"),
        ],
    )
    def test_no_file(self, graph, nodes, lora, message):
        with pytest.raises((ValueError, OSError), match=message):
            with_lora(graph, lora)
        assert message in nodes["TP_WanLoRA"].VALIDATE_INPUTS(lora)

    def test_what_validates(self, graph, nodes):
        validate = nodes["TP_WanLoRA"].VALIDATE_INPUTS
        assert validate(None) is validate("style.safetensors") is True
        assert "is a folder" in validate("../loras")

    def test_a_file_outside_of_the_folders(self, graph, nodes, style, tmp_path):
        outside = tmp_path / "outside.safetensors"
        outside.write_bytes(style.read_bytes())
        with pytest.raises(ForbiddenPathError, match="outside of the models folders"):
            with_lora(graph, str(outside))
        assert "outside of" in nodes["TP_WanLoRA"].VALIDATE_INPUTS(str(outside))

    def test_the_lora_of_another_model_before_anything_is_sampled(self, graph, small_fantasytalking_folder):
        pair = {"blocks.0.self_attn.q": (torch.zeros(2, 1536), torch.zeros(1536, 2))}
        written(small_fantasytalking_folder / "loras" / "other.safetensors", pair_tensors(pair))
        with pytest.raises(
            WeightMismatchError, match=r"made for Wan 1\.3B.*blocks\.0\.self_attn\.q\.lora_A\.weight"
        ):
            with_lora(graph, "other.safetensors")

    def test_a_whole_model_and_half_a_file(self, graph, style, small_fantasytalking_folder):
        with pytest.raises(WeightMismatchError, match=r"mine\.safetensors holds no LoRA"):
            with_lora(graph, "fantasytalking/mine.safetensors")
        (style.parent / "half.safetensors").write_bytes(style.read_bytes()[:-8])
        with pytest.raises(UnreadableWeightsError, match="not a whole safetensors file"):
            with_lora(graph, "half.safetensors")

    def test_a_strength_that_is_no_number(self, graph):
        with pytest.raises(ValueError, match="strength is nan"):
            with_lora(graph, strength=float("nan"))


def test_checking_a_workflow_misses_no_weights_for_it(graph, tmp_path, capsys):
    """The model behind the node is looked for as without it; the file itself is checked as an input."""
    path = tmp_path / "w.json"
    path.write_text(json.dumps(api_graph(1.0)))
    assert main(["check", str(path)]) == 0
    path.write_text(json.dumps(api_graph(1.0, lora="gone.safetensors")))
    assert main(["check", str(path)]) == 2
    assert "there is no weight file gone.safetensors" in capsys.readouterr().out
