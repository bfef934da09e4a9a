"""The pocket model's ear by itself: what its speech encoder makes of log-mel at 50 Hz, for other models to hear."""

from __future__ import annotations

import os

from .loading import EMBEDDED_POCKET, load_pocket
from .pocket import PocketModel
from .speech_encoder import MelListener

LISTENER_PARTS = ("stem.", "fine.")
"""Of the speech encoder, what listens; the rest makes mouths of it."""


def pocket_listener(pocket: PocketModel) -> MelListener:
    """Return the listener with a pocket model's weights, on the CPU in float32, in evaluation mode, gradients off."""
    listener = MelListener(pocket.parameters_used.encoder)
    state = pocket.encoder.state_dict()
    listener.load_state_dict({name: state[name] for name in state if name.startswith(LISTENER_PARTS)})
    return listener.eval().requires_grad_(False)


def load_pocket_listener(path: str | os.PathLike[str] = EMBEDDED_POCKET) -> MelListener:
    """Return the listener of a pocket model's file; the embedded one needs no download.

    Raises what `load_pocket` raises.
    """
    return pocket_listener(load_pocket(path))
