"""Wan's text encoder: both key names, real tokens and zeros, cleaning, tokeniser files, long and empty prompts."""

import logging
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.wan.prompt_encoder import PromptEncoder
from talking_portrait.core_models.video_diffusion.wan.text_cleaning import clean_prompt
from talking_portrait.core_models.video_diffusion.wan.text_encoder import (
    DEFAULT_NEGATIVE_PROMPT,
    DEFAULT_PROMPT,
    TextEncoderParameters,
    encoded_prompt,
    load_text_encoder,
    load_tokeniser,
    new_text_encoder,
    prompt_tokens,
)

SMALL = TextEncoderParameters(vocabulary=40, width=16, layers=2, heads=2, head_width=4, feed_forward=24)
WORDS = ["<pad>", "</s>", "<unk>", "a", "woman", "is", "talking.", "hello"]


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_text_encoder(SMALL)
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made


@pytest.fixture(scope="module")
def tokeniser_file(tmp_path_factory):
    """A tokenizer.json that knows eight words, and pads and cuts unless told not to."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokeniser = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokeniser.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokeniser.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokeniser.enable_padding(length=20)
    tokeniser.enable_truncation(4)
    path = tmp_path_factory.mktemp("tokeniser") / "tokenizer.json"
    tokeniser.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokeniser(tokeniser_file):
    return load_tokeniser(tokeniser_file)


def original_state(encoder):
    """The weights under the names of models_t5_umt5-xxl-enc-bf16.pth, one by one."""
    state = encoder.state_dict()
    renamed = {
        "token_embedding.weight": state["shared.weight"],
        "norm.weight": state["encoder.final_layer_norm.weight"],
    }
    for i in range(SMALL.layers):
        attention, forward = (f"encoder.block.{i}.layer.{j}" for j in (0, 1))
        renamed |= {
            f"blocks.{i}.attn.{part}.weight": state[f"{attention}.SelfAttention.{part}.weight"]
            for part in "qkvo"
        }
        renamed |= {
            f"blocks.{i}.norm1.weight": state[f"{attention}.layer_norm.weight"],
            f"blocks.{i}.norm2.weight": state[f"{forward}.layer_norm.weight"],
            f"blocks.{i}.ffn.gate.0.weight": state[f"{forward}.DenseReluDense.wi_0.weight"],
            f"blocks.{i}.ffn.fc1.weight": state[f"{forward}.DenseReluDense.wi_1.weight"],
            f"blocks.{i}.ffn.fc2.weight": state[f"{forward}.DenseReluDense.wo.weight"],
            f"blocks.{i}.pos_embedding.embedding.weight": state[
                f"{attention}.SelfAttention.relative_attention_bias.weight"
            ],
        }
    return {name: value.clone() for name, value in renamed.items()}


def transformers_state(encoder, without):
    state = encoder.state_dict()
    return {name: value.clone() for name, value in state.items() if name != without}


def output(encoder):
    with torch.no_grad():
        return encoder(input_ids=torch.tensor([[3, 4, 5, 6, 1]])).last_hidden_state


def saved(folder, kind, encoder):
    """Paths of a file of each kind that is published."""
    if kind == "original":
        torch.save(original_state(encoder), folder / "t5.pth")
        return folder / "t5.pth"
    if kind == "shards":
        state = transformers_state(encoder, "encoder.embed_tokens.weight")
        names = sorted(state)
        for i, part in enumerate((names[:9], names[9:]), 1):
            save_file({name: state[name] for name in part}, folder / f"model-0000{i}-of-00002.safetensors")
        return folder
    state = transformers_state(encoder, {"shared": "encoder.embed_tokens.weight"}.get(kind, "shared.weight"))
    if kind == "comfyui":
        state = transformers_state(encoder, "encoder.embed_tokens.weight")
        state["spiece_model"] = torch.zeros(7, dtype=torch.uint8)
    save_file(state, folder / "t5.safetensors")
    return folder / "t5.safetensors"


@pytest.mark.parametrize("kind", ["original", "shared", "in_encoder", "comfyui", "shards"])
def test_files_of_every_name(kind, encoder, tmp_path):
    loaded = load_text_encoder(saved(tmp_path, kind, encoder), torch.float32, SMALL)
    assert torch.equal(output(loaded), output(encoder))
    assert not any(value.requires_grad for value in loaded.parameters())
    coarse = load_text_encoder(saved(tmp_path, kind, encoder), parameters=SMALL)
    assert {value.dtype for value in coarse.parameters()} == {torch.bfloat16}


def test_a_key_in_two_shards_is_refused(encoder, tmp_path):
    folder = saved(tmp_path, "shards", encoder)
    second = load_file(folder / "model-00002-of-00002.safetensors")
    twice = {"encoder.final_layer_norm.weight": torch.ones(SMALL.width)}
    for number in (1, 2):
        path = folder / f"model-0000{number}-of-00002.safetensors"
        save_file((load_file(path) if number == 1 else second) | twice, path)
    with pytest.raises(
        WeightMismatchError, match=r"00002-of-00002.*'encoder.final_layer_norm.weight', which another"
    ):
        load_text_encoder(folder, parameters=SMALL)


@pytest.mark.parametrize("names", [("shared.weight",), ("token_embedding.weight",)])
def test_two_embeddings_must_be_one(names, encoder, tmp_path):
    state = original_state(encoder)
    embedding = state.pop("token_embedding.weight")
    state |= dict.fromkeys((*names, "encoder.embed_tokens.weight"), embedding)
    torch.save(state, tmp_path / "t5.pth")
    assert torch.equal(output(load_text_encoder(tmp_path / "t5.pth", torch.float32, SMALL)), output(encoder))
    state["encoder.embed_tokens.weight"] = embedding + 2**-6
    torch.save(state, tmp_path / "t5.pth")
    with pytest.raises(WeightMismatchError, match=r"shared\.weight and encoder\.embed_tokens\.weight differ"):
        load_text_encoder(tmp_path / "t5.pth", parameters=SMALL)


def linear_weights(encoder):
    return {
        f"{name}.weight": layer.weight
        for name, layer in encoder.named_modules()
        if type(layer) is torch.nn.Linear
    }


def scaled_state(encoder):
    """The weights as ComfyUI's umt5_xxl_fp8_e4m3fn_scaled.safetensors holds them: its keys, its precisions."""
    state = transformers_state(encoder, "encoder.embed_tokens.weight")
    state = {name: value.half() if "shared" in name else value for name, value in state.items()}
    for name, weight in linear_weights(encoder).items():
        scale = weight.abs().max() / 448
        state[name] = (weight / scale).to(torch.float8_e4m3fn)
        state[name.replace(".weight", ".scale_weight")] = scale.reshape(1)
    return state | {
        "scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn),
        "spiece_model": torch.zeros(7, dtype=torch.uint8),
    }


def rounded(encoder, state):
    """An encoder with the numbers that a scaled state stands for."""
    made = new_text_encoder(SMALL)
    values = {name: value.float() for name, value in state.items() if name in made.state_dict()}
    for name in linear_weights(encoder):
        values[name] = values[name] * state[name.replace(".weight", ".scale_weight")]
    made.load_state_dict(values | {"encoder.embed_tokens.weight": values["shared.weight"]})
    return made


class TestEightBits:
    @pytest.mark.parametrize("keep_float8", [True, False])
    def test_comfyuis_scaled_file_is_read(self, keep_float8, encoder, tmp_path):
        state = scaled_state(encoder)
        save_file(state, tmp_path / "t5.safetensors")
        loaded = load_text_encoder(tmp_path / "t5.safetensors", torch.float32, SMALL, keep_float8)
        torch.testing.assert_close(output(loaded), output(rounded(encoder, state)), atol=1e-6, rtol=1e-6)
        distance = (output(loaded) - output(encoder)).norm() / output(encoder).norm()
        assert 0 < distance < 0.1
        half = load_text_encoder(tmp_path / "t5.safetensors", torch.bfloat16, SMALL, keep_float8)
        assert output(half).dtype == torch.bfloat16
        assert (output(half) - output(loaded)).norm() < 0.05 * output(loaded).norm()

    def test_its_weights_stay_in_8_bits_but_for_those_that_transformers_looks_at(self, encoder, tmp_path):
        save_file(scaled_state(encoder), tmp_path / "t5.safetensors")
        loaded = load_text_encoder(tmp_path / "t5.safetensors", parameters=SMALL)
        packed = {name for name, value in loaded.state_dict().items() if value.dtype == torch.float8_e4m3fn}
        assert packed == {name for name in linear_weights(encoder) if not name.endswith(".wo.weight")}
        assert {value.dtype for value in loaded.parameters()} == {torch.float8_e4m3fn, torch.bfloat16}
        assert loaded.shared.weight is loaded.encoder.embed_tokens.weight
        assert not loaded.training
        assert not any(value.requires_grad for value in loaded.parameters())

    def test_plain_files_are_what_they_say(self, encoder, tmp_path):
        state = {name: value.to(torch.float8_e4m3fn) for name, value in original_state(encoder).items()}
        save_file(state, tmp_path / "t5.safetensors")
        kept, at_once = (
            load_text_encoder(tmp_path / "t5.safetensors", torch.float32, SMALL, keep)
            for keep in (True, False)
        )
        assert torch.equal(output(kept), output(at_once))
        assert any(value.dtype == torch.float8_e4m3fn for value in kept.parameters())
        shared = encoder.shared.weight.to(torch.float8_e4m3fn).float()
        assert torch.equal(kept.shared.weight, shared)

    def test_a_scale_that_is_missing_is_named(self, encoder, tmp_path):
        state = scaled_state(encoder)
        del state["encoder.block.1.layer.0.SelfAttention.q.scale_weight"]
        save_file(state, tmp_path / "t5.safetensors")
        with pytest.raises(
            WeightMismatchError, match=r"without a scale: \['encoder\.block\.1\.layer\.0\.Self"
        ):
            load_text_encoder(tmp_path / "t5.safetensors", parameters=SMALL)


def test_published_sizes_need_no_memory():
    with torch.device("meta"):
        network = new_text_encoder()
    assert sum(value.numel() for value in network.parameters()) == 5_680_910_336
    assert {value.device.type for value in network.parameters()} == {"meta"}


def test_files_that_do_not_fit(encoder, tmp_path):
    state = original_state(encoder)
    state["surplus"] = state.pop("blocks.1.ffn.gate.0.weight")
    torch.save(state, tmp_path / "t5.pth")
    with pytest.raises(WeightMismatchError) as error:
        load_text_encoder(tmp_path / "t5.pth", parameters=SMALL)
    assert "Missing: ['encoder.block.1.layer.1.DenseReluDense.wi_0.weight']" in str(error.value)
    assert "Unexpected: ['surplus']" in str(error.value)
    folder = tmp_path / "shards"
    folder.mkdir()
    saved(folder, "shards", encoder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        load_text_encoder(folder, parameters=SMALL)


def test_prompt_is_its_tokens_then_zeros(encoder, tokeniser):
    rows = encoded_prompt(encoder, tokeniser, "a  woman is\ntalking.")
    assert rows.shape == (512, 16)
    assert rows.dtype == torch.float32
    assert torch.equal(rows[:5], output(encoder)[0])
    assert (rows[:5].abs().sum(1) > 0).all()
    assert not rows[5:].any()


def test_padding_that_is_masked_changes_nothing(encoder, tokeniser):
    """The release encodes 512 tokens with a mask and then cuts."""
    tokens = torch.zeros(1, 512, dtype=torch.long)
    tokens[0, :5] = torch.tensor([3, 4, 5, 6, 1])
    with torch.no_grad():
        padded = encoder(input_ids=tokens, attention_mask=(tokens > 0).long()).last_hidden_state[0, :5]
    rows = encoded_prompt(encoder, tokeniser, "a woman is talking.")
    torch.testing.assert_close(rows[:5], padded, atol=1e-5, rtol=1e-5)


def test_work_may_be_ended_between_blocks(encoder, tokeniser):
    class CancelledError(Exception):
        pass

    calls = []

    def check():
        calls.append(None)
        if len(calls) == SMALL.layers + 2:
            raise CancelledError

    plain = encoded_prompt(encoder, tokeniser, "hello")
    assert torch.equal(PromptEncoder(encoder, tokeniser)("hello", check), plain)
    assert len(calls) == SMALL.layers
    with pytest.raises(CancelledError):
        encoded_prompt(encoder, tokeniser, "hello", check=check)
    encoded_prompt(encoder, tokeniser, "hello")
    assert len(calls) == SMALL.layers + 2


@pytest.mark.parametrize("text", ["", "   \n "])
def test_empty_prompt_is_the_end_of_text(text, encoder, tokeniser):
    rows = encoded_prompt(encoder, tokeniser, text)
    assert prompt_tokens(tokeniser, text) == [1]
    assert rows[0].any()
    assert not rows[1:].any()


def test_two_thousand_words_are_cut_with_a_warning(encoder, tokeniser, caplog):
    with caplog.at_level(logging.WARNING):
        rows = encoded_prompt(encoder, tokeniser, "hello " * 2000)
    assert "2000 tokens; Wan reads the first 511" in caplog.text
    assert rows.shape == (512, 16)
    assert rows[511].any()
    assert prompt_tokens(tokeniser, "hello " * 2000) == [7] * 511 + [1]
    caplog.clear()
    assert len(prompt_tokens(tokeniser, "hello " * 511)) == 512
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" A woman\n\tis   talking. ", "A woman is talking."),
        ("a &amp;amp; b &lt;c&gt;", "a & b <c>"),
        ("“Hi”, it’s ﬁne…", '"Hi", it\'s fine…'),
        ("ＡＢ，　Ｃ", "AB, C"),
        ("cafe\u0301", "caf\u00e9"),
        ("\x1b[31mred\x1b[0m\x00\ufeff", "red"),
        ("one\r\ntwo\u2028three", "one two three"),
        ("\ud800 alone", "\ufffd alone"),
        ("\x93quoted\x94 \x85", '"quoted" …'),
        ("人物静止不动，静止", "人物静止不动,静止"),
        ("😀", "😀"),
        ("", ""),
    ],
)
def test_cleaning(text, cleaned):
    assert clean_prompt(text) == cleaned
    assert clean_prompt(cleaned) == cleaned


def test_default_prompts_are_clean_of_line_breaks():
    assert clean_prompt(DEFAULT_PROMPT) == DEFAULT_PROMPT
    assert DEFAULT_NEGATIVE_PROMPT.startswith("人物静止不动，静止，")
    assert clean_prompt(DEFAULT_NEGATIVE_PROMPT) == DEFAULT_NEGATIVE_PROMPT.replace("，", ",")


def test_tokeniser_of_a_folder(tokeniser_file):
    assert load_tokeniser(tokeniser_file.parent)("a woman is talking. hello") == [3, 4, 5, 6, 7]


def test_tokeniser_files_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json or spiece\.model"):
        load_tokeniser(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnreadableWeightsError, match=r"not a tokenizer\.json"):
        load_tokeniser(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
    )
    with pytest.raises(UnreadableWeightsError, match="not umT5's tokeniser"):
        load_tokeniser(tmp_path)
    save_file({"shared.weight": torch.zeros(2)}, tmp_path / "t5.safetensors")
    with pytest.raises(UnreadableWeightsError, match="holds no tokeniser"):
        load_tokeniser(tmp_path / "t5.safetensors")


def test_sentencepiece_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "spiece.model").write_bytes(b"\x00")
    with pytest.raises(
        ImportError, match=r"needs the package sentencepiece: install it, or give tokenizer\.json"
    ):
        load_tokeniser(tmp_path / "spiece.model")


def test_sentencepiece_files(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("a woman is talking\nhello there\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=20,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    content = (tmp_path / "spiece.model").read_bytes()
    save_file(
        {"spiece_model": torch.frombuffer(bytearray(content), dtype=torch.uint8)}, tmp_path / "t5.safetensors"
    )
    first, second = (load_tokeniser(tmp_path / name) for name in ("spiece.model", "t5.safetensors"))
    assert first("a woman") == second("a woman") != []
    (tmp_path / "spiece.model").write_bytes(b"no")
    with pytest.raises(UnreadableWeightsError, match="not a sentencepiece model"):
        load_tokeniser(tmp_path / "spiece.model")
