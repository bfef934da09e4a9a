"""Guess a slowly varying quantity from speech, or take it as given, and tell the speech features of it.

Takin-ADA (arXiv 2410.14283) says that head motion and emotion can be controlled, not how; this is the variance adapter
of AniTalker (arXiv 2405.03121), from which its second stage comes. LSTMs run forwards only, so a stream may use it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

PREDICTOR_LAYERS = 2
LSTMState = tuple[Tensor, Tensor]


class AdapterMemory(NamedTuple):
    """The states of both networks after the frames so far; None before the first."""

    predictor: LSTMState | None = None
    encoder: LSTMState | None = None


class VarianceAdapter(nn.Module):
    """size: numbers of the quantity per frame. width: of the speech features. hidden: of the predictor."""

    def __init__(self, size: int, width: int, hidden: int) -> None:
        super().__init__()
        self.predictor = nn.LSTM(width, hidden, PREDICTOR_LAYERS, batch_first=True)
        self.prediction = nn.Linear(hidden, size)
        self.encoder = nn.LSTM(size, width, batch_first=True)

    def predict(self, speech: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """Return what speech (B, N, width) suggests, (B, N, size), and the predictor's state after it."""
        hidden, state = self.predictor(speech, state)
        return self.prediction(hidden), state

    def encode(self, values: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """Return (B, N, width), to be added to the speech features, of values (B, N, size), and the state after it."""
        return self.encoder(values, state)
