"""DDIM over one window: from noise to motion in a few deterministic steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .prepared_denoiser import PreparedDenoiser, PreparedWindow
from .schedule import ddim_step, split_prediction


def sample_window(
    denoiser: PreparedDenoiser,
    window: PreparedWindow,
    noise: Tensor,
    timesteps: Sequence[int],
    signal: Tensor,
    prediction: str,
    known: tuple[Tensor, Tensor] | None = None,
    step_done: Callable[[], None] | None = None,
) -> Tensor:
    """Return motion (B, N, motion_size) float32 by DDIM, eta 0, from noise of that shape.

    denoiser: made ready for `timesteps`, noisiest first. signal: (1000,), alpha bar of every timestep; the last step
    goes to 1. prediction: what the denoiser predicts, "epsilon" or "x0".
    known: (weights, values), both broadcast to the noise: at every step the motion is drawn towards the values, by
    the weights: 1 is the value itself, 0 leaves what is sampled. The rest of the window is sampled to go with it.
    step_done: called after each step; it may raise to cancel.
    """
    x = noise
    for index, step in enumerate(timesteps):
        x0, epsilon = split_prediction(denoiser.predict(window, x, index), x, signal[step], prediction)
        if known is not None:
            weights, values = known
            x0 = torch.lerp(x0, values.to(x0), weights.to(x0))
            epsilon = (x - signal[step].sqrt() * x0) / (1 - signal[step]).sqrt()
        last = index + 1 == len(timesteps)
        x = x0 if last else ddim_step(x0, epsilon, signal[timesteps[index + 1]])
        if step_done is not None:
            step_done()
    return x
