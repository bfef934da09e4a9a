"""What Wan sees of the reference picture: both key names, which layer, what is left out and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.core_models.video_diffusion.wan.clip_vision import (
    ClipVisionParameters,
    load_clip_vision,
    new_clip_vision,
    picture_tokens,
)

SMALL = ClipVisionParameters(width=16, layers=3, heads=2, feed_forward=24, image_size=28, patch_size=14)
LAYER_NAMES = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_clip_vision(SMALL)
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(1))


def bare_state(network):
    """Weights without the prefix that some versions of transformers put in front."""
    return {name.removeprefix("vision_model."): value.clone() for name, value in network.state_dict().items()}


def original_state(network):
    """The weights under the names of open-clip's XLM-RoBERTa file, text part included."""
    state = bare_state(network)
    renamed = {
        "visual.patch_embedding.weight": state["embeddings.patch_embedding.weight"],
        "visual.cls_embedding": state["embeddings.class_embedding"].view(1, 1, -1),
        "visual.pos_embedding": state["embeddings.position_embedding.weight"][None],
        "visual.head": torch.zeros(16, 8),
        "textual.blocks.0.attn.q.weight": torch.zeros(2, 2),
        "log_scale": torch.zeros(()),
    }
    for kind in ("weight", "bias"):
        renamed[f"visual.pre_norm.{kind}"] = state[f"pre_layrnorm.{kind}"]
        renamed[f"visual.post_norm.{kind}"] = state[f"post_layernorm.{kind}"]
        for i in range(SMALL.layers):
            old, new = f"encoder.layers.{i}", f"visual.transformer.{i}"
            renamed |= {
                f"{new}.{theirs}.{kind}": state[f"{old}.{ours}.{kind}"]
                for theirs, ours in LAYER_NAMES.items()
            }
            renamed[f"{new}.attn.to_qkv.{kind}"] = torch.cat(
                [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
    return renamed


def saved(folder, kind, network):
    """A file of each kind that is published."""
    if kind == "original":
        torch.save(original_state(network), folder / "clip.pth")
        return folder / "clip.pth"
    if kind == "visual_only":
        state = {name: value for name, value in original_state(network).items() if name.startswith("visual.")}
    else:
        prefix = "vision_model." if kind.startswith("vision_model") else ""
        state = {f"{prefix}{name}": value for name, value in bare_state(network).items()}
    if kind == "vision_model_projected":
        state["visual_projection.weight"] = torch.zeros(8, 16)
        state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "clip.safetensors")
    return folder / "clip.safetensors"


@pytest.mark.parametrize(
    "kind", ["original", "visual_only", "vision_model", "vision_model_projected", "bare"]
)
def test_files_of_every_name(kind, network, pixels, tmp_path):
    loaded = load_clip_vision(saved(tmp_path, kind, network), torch.float32, SMALL)
    assert torch.equal(picture_tokens(loaded, pixels), picture_tokens(network, pixels))
    assert not any(value.requires_grad for value in loaded.parameters())


def test_tokens_enter_the_last_block(network, pixels):
    """All tokens, of all blocks but the last, without the norm behind."""
    tokens = picture_tokens(network, pixels)
    assert tokens.shape == (5, 16)
    assert tokens.dtype == torch.float32
    with torch.no_grad():
        every = network(pixel_values=pixels[None], output_hidden_states=True).hidden_states
    assert len(every) == SMALL.layers + 1
    assert torch.equal(tokens, every[SMALL.layers - 1][0])
    shortened = new_clip_vision(ClipVisionParameters(16, 2, 2, 24, 28, 14))
    state = {k: v for k, v in network.state_dict().items() if "layers.2." not in k}
    shortened.load_state_dict(state)
    with torch.no_grad():
        last = shortened(pixel_values=pixels[None]).last_hidden_state[
            0
        ]  # without the norm: only the summary has it
    torch.testing.assert_close(tokens, last)


def test_half_precision_stays_near(network, pixels, tmp_path):
    half = load_clip_vision(saved(tmp_path, "original", network), parameters=SMALL)
    assert half.dtype == torch.float16
    expected = picture_tokens(network, pixels)
    assert (picture_tokens(half, pixels) - expected).abs().max() < 0.02 * expected.abs().max()


def test_work_may_be_ended_between_blocks(network, pixels):
    calls = []
    assert torch.equal(
        picture_tokens(network, pixels, lambda: calls.append(None)), picture_tokens(network, pixels)
    )
    assert len(calls) == SMALL.layers

    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        picture_tokens(network, pixels, check)
    picture_tokens(network, pixels)  # nothing of the check is left


def test_published_sizes_need_no_memory():
    with torch.device("meta"):
        published = new_clip_vision()
    assert sum(value.numel() for value in published.parameters()) == 630_766_080
    assert published.config.image_size == 224
    assert (224 // 14) ** 2 + 1 == 257


@pytest.mark.parametrize("shape", [(3, 32, 28), (4, 28, 28), (28, 28), (2, 3, 28, 28)])
def test_pictures_that_are_not_prepared(shape, network):
    with pytest.raises(
        ValueError, match=r"expected \(3, 28, 28\): prepare the picture by clip_vision_pixels"
    ):
        picture_tokens(network, torch.zeros(shape))


def test_files_that_do_not_fit(network, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_clip_vision(tmp_path / "none.pth")
    state = original_state(network)
    state["surplus"] = state.pop("visual.transformer.2.norm1.bias")
    del state["visual.transformer.0.attn.to_qkv.bias"]
    torch.save(state, tmp_path / "clip.pth")
    with pytest.raises(WeightMismatchError) as error:
        load_clip_vision(tmp_path / "clip.pth", parameters=SMALL)
    for missing in ("layers.2.layer_norm1.bias", *(f"layers.0.self_attn.{part}_proj.bias" for part in "qkv")):
        assert missing in str(error.value).split("Unexpected")[0]
    assert "Unexpected: ['surplus']" in str(error.value).replace("vision_model.", "")
