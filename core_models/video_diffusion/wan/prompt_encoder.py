"""Wan's text encoder with its tokeniser: prompts in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..block_checks import CheckCallback
from .text_encoder import TextEncoderParameters, Tokeniser, encoded_prompt, load_text_encoder, load_tokeniser


class PromptEncoder(nn.Module):
    """Gives (512, width) float32 on the CPU of a prompt. encoder: umT5. tokeniser: its own."""

    def __init__(self, encoder: nn.Module, tokeniser: Tokeniser) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokeniser = tokeniser

    def forward(self, text: str, check: CheckCallback | None = None) -> Tensor:
        """Return what `encoded_prompt` returns. check: called before each block; what it raises ends the work."""
        return encoded_prompt(self.encoder, self.tokeniser, text, check=check)


def load_prompt_encoder(
    paths: Sequence[str | os.PathLike[str]],
    tokeniser: str | os.PathLike[str],
    dtype: torch.dtype = torch.bfloat16,
    parameters: TextEncoderParameters | None = None,
) -> PromptEncoder:
    """Return the encoder of one file or of shards, and the tokeniser of another, or of the same, file.

    Raises what `load_text_encoder` and `load_tokeniser` raise.
    """
    return PromptEncoder(load_text_encoder(paths, dtype, parameters), load_tokeniser(tokeniser))
