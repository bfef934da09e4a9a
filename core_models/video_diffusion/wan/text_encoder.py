"""umT5-XXL's encoder (Chung et al. 2023, arXiv 2304.09151), which reads the prompts of Wan 2.1.

A prompt becomes 512 rows: those of its tokens, then zeros. Wan has no mask for them: it attends to the zeros too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from ...strict_loading import (
    SAFETENSORS_SUFFIXES,
    KeyTable,
    UnreadableWeightsError,
    WeightMismatchError,
    map_keys,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from ..block_checks import CheckCallback, checked_between
from .default_prompts import DEFAULT_NEGATIVE_PROMPT as DEFAULT_NEGATIVE_PROMPT
from .default_prompts import DEFAULT_PROMPT as DEFAULT_PROMPT
from .stored_weights import assign_weights, read_shards, separated_scales
from .text_cleaning import clean_prompt
from .weight_shards import WeightPaths, weight_files

LOGGER = logging.getLogger(__name__)
TEXT_LENGTH = 512
"""Rows of every prompt."""
END_OF_TEXT = "</s>"
TOKENISER_ENTRY = "spiece_model"
"""Tensor of bytes under which ComfyUI's file of the encoder holds the tokeniser."""

_LAYER = "encoder.block.{}.layer"
ORIGINAL_KEYS: KeyTable = {
    "token_embedding.weight": "shared.weight",
    "blocks.{}.norm1.weight": f"{_LAYER}.0.layer_norm.weight",
    "blocks.{}.attn.*": f"{_LAYER}.0.SelfAttention.*",
    "blocks.{}.pos_embedding.embedding.weight": f"{_LAYER}.0.SelfAttention.relative_attention_bias.weight",
    "blocks.{}.norm2.weight": f"{_LAYER}.1.layer_norm.weight",
    "blocks.{}.ffn.gate.0.*": f"{_LAYER}.1.DenseReluDense.wi_0.*",
    "blocks.{}.ffn.fc1.*": f"{_LAYER}.1.DenseReluDense.wi_1.*",
    "blocks.{}.ffn.fc2.*": f"{_LAYER}.1.DenseReluDense.wo.*",
    "norm.weight": "encoder.final_layer_norm.weight",
    TOKENISER_ENTRY: None,
}
"""How `models_t5_umt5-xxl-enc-bf16.pth` maps to transformers' names; files in those names pass through."""
_EMBEDDING, _EMBEDDING_IN_ENCODER = "shared.weight", "encoder.embed_tokens.weight"
"""Both names of one matrix; files have one of them, or both."""
_NO_LINEAR_LAYERS = (_EMBEDDING, _EMBEDDING_IN_ENCODER, "relative_attention_bias.weight")
_ROWS_AT_ONCE = 4096

Tokeniser = Callable[[str], list[int]]
"""Cleaned text to the numbers of its tokens, without the end of text."""


@dataclass(frozen=True)
class TextEncoderParameters:
    """Sizes of the encoder; the defaults are umT5-XXL's.

    vocabulary: tokens. width, layers, heads, head_width, feed_forward: of the transformer.
    """

    vocabulary: int = 256384
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head_width: int = 64
    feed_forward: int = 10240


def new_text_encoder(parameters: TextEncoderParameters | None = None) -> UMT5EncoderModel:
    """Return an encoder without trained weights, in evaluation mode, gradients off. None: umT5-XXL's sizes."""
    sizes = parameters or TextEncoderParameters()
    config = UMT5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_kv=sizes.head_width,
        d_ff=sizes.feed_forward,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        feed_forward_proj="gated-gelu",
    )
    return UMT5EncoderModel(config).eval().requires_grad_(False)


def load_text_encoder(
    paths: WeightPaths,
    dtype: torch.dtype = torch.bfloat16,
    parameters: TextEncoderParameters | None = None,
    keep_float8: bool = True,
) -> UMT5EncoderModel:
    """Return the encoder of published files, on the CPU, in evaluation mode, gradients off.

    paths: one file, a folder, or shards, in Wan's original key names or those of transformers; plain or scaled 8-bit
    files, such as ComfyUI's `umt5_xxl_fp8_e4m3fn_scaled.safetensors`, too. dtype: of the weights; bfloat16 is the
    release's. parameters: None is umT5-XXL's sizes. keep_float8: weights of linear layers that lie in 8 bits stay so,
    and become `dtype` in each call; otherwise they become it at once.
    Raises FileNotFoundError, and ValueError for a file of another kind, a key that is in two shards, two different
    embeddings, or any key that is missing, unexpected or misshapen (all of them are named).
    """
    files = weight_files(paths)
    source = ", ".join(map(str, files))
    tensors = map_keys(read_shards(files, dtype), ORIGINAL_KEYS, source)
    stored = separated_scales(_with_both_names(tensors, dtype, source), source, _NO_LINEAR_LAYERS)
    with torch.device("meta"):
        encoder = new_text_encoder(parameters)
    require_matching_keys(encoder.state_dict(), stored.tensors, source)
    assign_weights(encoder, stored, lambda _name: dtype, lambda name: keep_float8 and may_stay_packed(name))
    encoder.set_input_embeddings(encoder.shared)  # else the two would become two on another device
    return require_no_meta_tensors(encoder).eval().requires_grad_(False)


def may_stay_packed(name: str) -> bool:
    """Return whether a linear layer's weight, by its key, may stay in 8 bits.

    That of `wo` may not: transformers brings what enters it to the kind of its weight, and 8 bits would round it away.
    """
    return not name.endswith(".wo.weight")


def _with_both_names(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: str) -> dict[str, Tensor]:
    """Return tensors whose embedding has both of its names and is in `dtype`, once in memory."""
    found = [tensors[name] for name in (_EMBEDDING, _EMBEDDING_IN_ENCODER) if name in tensors]
    if len(found) == 2 and not _same_numbers(*found):
        raise WeightMismatchError(
            f"{source}: {_EMBEDDING} and {_EMBEDDING_IN_ENCODER} differ, but umT5 has one embedding: fetch it again"
        )
    named = dict.fromkeys((_EMBEDDING, _EMBEDDING_IN_ENCODER), found[0].to(dtype)) if found else {}
    return {**tensors, **named}


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether two matrices of any precision are equal; a part at a time, as umT5's are large."""
    pairs = zip(one.split(_ROWS_AT_ONCE), other.split(_ROWS_AT_ONCE), strict=False)
    return one.shape == other.shape and all(torch.equal(a.float(), b.float()) for a, b in pairs)


def load_tokeniser(path: str | os.PathLike[str]) -> Tokeniser:
    """Return the tokeniser of google/umt5-xxl's files.

    path: tokenizer.json (what the release reads), spiece.model, a folder with one of them, or ComfyUI's file of the
    encoder, which holds the latter. All but the first need the package sentencepiece.
    Raises FileNotFoundError, UnreadableWeightsError (a ValueError) for a file of another kind, and ImportError without
    sentencepiece.
    """
    path = _tokeniser_file(Path(path))
    if path.suffix.lower() == ".json":
        return _from_json(path)
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        return _from_sentencepiece(_embedded_tokeniser(path), path)
    return _from_sentencepiece(path.read_bytes(), path)


def _tokeniser_file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("tokenizer.json", "spiece.model"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"there is no tokeniser at {path}: give tokenizer.json or spiece.model of google/umt5-xxl, or their folder"
    )


def _from_json(path: Path) -> Tokeniser:
    from tokenizers import Tokenizer

    try:
        tokeniser = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UnreadableWeightsError(f"{path} is not a tokenizer.json: {error}") from error
    end = tokeniser.token_to_id(END_OF_TEXT)
    if end != UMT5Config().eos_token_id:
        raise UnreadableWeightsError(f"{path} is not umT5's tokeniser: {END_OF_TEXT} is {end}, expected 1")
    tokeniser.no_padding()
    tokeniser.no_truncation()
    return lambda text: tokeniser.encode(text, add_special_tokens=False).ids


def _embedded_tokeniser(path: Path) -> bytes:
    entry = read_weights(path).tensors.get(TOKENISER_ENTRY)
    if entry is None:
        raise UnreadableWeightsError(f"{path} holds no tokeniser: give tokenizer.json of google/umt5-xxl")
    return entry.numpy().tobytes()


def _from_sentencepiece(content: bytes, path: Path) -> Tokeniser:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package sentencepiece: install it, or give tokenizer.json of google/umt5-xxl instead"
        ) from error
    try:
        tokeniser = SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise UnreadableWeightsError(f"{path} is not a sentencepiece model: {error}") from error
    return tokeniser.encode


def prompt_tokens(tokeniser: Tokeniser, text: str, length: int = TEXT_LENGTH) -> list[int]:
    """Return the numbers of a cleaned prompt's tokens and the end of text, at most `length`; warns when it cuts."""
    tokens = tokeniser(clean_prompt(text))
    if len(tokens) > length - 1:
        LOGGER.warning(
            "The prompt has %d tokens; Wan reads the first %d, the rest is left out", len(tokens), length - 1
        )
    return [*tokens[: length - 1], UMT5Config().eos_token_id]


@torch.no_grad()
def encoded_prompt(
    encoder: UMT5EncoderModel,
    tokeniser: Tokeniser,
    text: str,
    length: int = TEXT_LENGTH,
    check: CheckCallback | None = None,
) -> Tensor:
    """Return (length, width) float32 on the CPU: the rows of a prompt's tokens, then zeros.

    An empty prompt has one row, that of the end of text. A prompt of more tokens than `length` is cut, with a warning.
    Only the real tokens are encoded: with the release's mask the others change nothing. check: called before each block
    of the encoder; what it raises ends the work.
    """
    tokens = torch.tensor([prompt_tokens(tokeniser, text, length)], device=encoder.device)
    with checked_between(encoder.encoder.block, check):
        rows = encoder(input_ids=tokens).last_hidden_state[0].float().cpu()
    return torch.cat([rows, rows.new_zeros(length - len(rows), rows.shape[1])])
