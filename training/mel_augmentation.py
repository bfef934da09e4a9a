"""Augmentation of speech in the mel-power domain: other throats, rooms, microphones and noises, in milliseconds.

All functions take (B, T, 80) mel power (linear) and return the same shape; randomness comes from the given
torch generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR_POWER = 1e-10
WARP_RANGE = 0.16
SHIFT_BANDS = 2.0
TILT_DECIBELS = 10.0
RIPPLE_DECIBELS = 3.0
NOISE_SNR = (3.0, 50.0)
BABBLE_CHANCE, BABBLE_SNR = 0.12, (5.0, 20.0)
REVERB_CHANCE, REVERB_SECONDS = 0.4, (0.05, 0.45)  # time for 60 dB of decay is three times the second
BAND_LIMIT_CHANCE = 0.2
BAND_MASK_CHANCE = 0.3
GAIN_DECIBELS = 6.0


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def warp_bands(power: Tensor, generator: torch.Generator) -> Tensor:
    """Stretch and shift the mel axis: another vocal tract."""
    batch, _, bands = power.shape
    factor = _uniform(generator, (batch, 1), 1 - WARP_RANGE, 1 + WARP_RANGE)
    shift = _uniform(generator, (batch, 1), -SHIFT_BANDS, SHIFT_BANDS)
    source = torch.arange(bands)[None] * factor + shift
    weights = (1 - (source[:, None, :] - torch.arange(bands)[None, :, None]).abs()).clamp(min=0)
    return torch.bmm(power, weights) + FLOOR_POWER


def add_reverberation(power: Tensor, generator: torch.Generator) -> Tensor:
    """Add an exponential tail of energy to some items."""
    batch, length, _ = power.shape
    decay = _uniform(generator, (batch, 1, 1), *REVERB_SECONDS)
    level = 10 ** (_uniform(generator, (batch, 1, 1), -25, -8) / 10)
    chosen = (torch.rand(batch, 1, 1, generator=generator) < REVERB_CHANCE).float()
    lag = (torch.arange(length)[:, None] - torch.arange(length)[None]).float()[None] / 100
    kernel = (
        torch.where(lag > 0, torch.exp(-lag.clamp(min=0) * 4.6 / decay), torch.zeros(())) * level * chosen
    )
    return power + torch.bmm(kernel, power)


def equalise(power: Tensor, generator: torch.Generator) -> Tensor:
    """Tilt the spectrum and ripple it: other microphones and speakers; then change the gain."""
    batch, _, bands = power.shape
    axis = torch.linspace(-1, 1, bands)[None]
    curve = _uniform(generator, (batch, 1), -TILT_DECIBELS, TILT_DECIBELS) * axis
    for cycles in (1.5, 3.0, 5.0):
        phase = _uniform(generator, (batch, 1), 0, 6.283)
        curve = curve + _uniform(generator, (batch, 1), 0, RIPPLE_DECIBELS) * torch.sin(
            cycles * 3.1416 * axis + phase
        )
    curve = curve + _uniform(generator, (batch, 1), -GAIN_DECIBELS, GAIN_DECIBELS)
    return power * 10 ** (curve[:, None] / 10)


def limit_band(power: Tensor, generator: torch.Generator) -> Tensor:
    """Cut the highs (and some lows) of some items, as telephones and codecs do."""
    batch, _, bands = power.shape
    chosen = torch.rand(batch, 1, generator=generator) < BAND_LIMIT_CHANCE
    cut = torch.where(
        chosen, _uniform(generator, (batch, 1), 45, bands), torch.full((batch, 1), float(bands))
    )
    low = torch.where(chosen, _uniform(generator, (batch, 1), -6, 8), torch.zeros(batch, 1))
    axis = torch.arange(bands)[None]
    kept = torch.sigmoid((cut - axis) * 2) * torch.sigmoid((axis - low + 2) * 2)
    return power * (kept[:, None] + 1e-5)


def mask_bands(power: Tensor, generator: torch.Generator) -> Tensor:
    """Silence a random group of bands in some items."""
    batch, _, bands = power.shape
    chosen = torch.rand(batch, 1, generator=generator) < BAND_MASK_CHANCE
    start = _uniform(generator, (batch, 1), 0, bands)
    width = _uniform(generator, (batch, 1), 2, 9)
    axis = torch.arange(bands)[None]
    hidden = chosen & (axis >= start) & (axis < start + width)
    return torch.where(hidden[:, None], torch.full((), FLOOR_POWER), power)


def noise_power(power: Tensor, generator: torch.Generator) -> Tensor:
    """Return coloured noise of unit mean power with the fluctuation of a short-time spectrum."""
    batch, length, bands = power.shape
    axis = torch.linspace(-1, 1, bands)[None]
    colour = _uniform(generator, (batch, 1), -15, 8) * axis
    colour = colour + _uniform(generator, (batch, 1), 0, 4) * torch.sin(
        _uniform(generator, (batch, 1), 1, 8) * axis + _uniform(generator, (batch, 1), 0, 6.283)
    )
    shape = 10 ** (colour / 10)
    shape = shape / shape.mean(dim=1, keepdim=True)
    pairs = torch.rand(2, batch, length, bands, generator=generator).clamp(min=1e-6)
    fluctuation = -pairs.log().mean(dim=0)
    return shape[:, None] * fluctuation


def add_noise(power: Tensor, generator: torch.Generator) -> Tensor:
    """Add coloured noise, and other items of the batch as babble, at random signal-to-noise ratios."""
    batch = power.shape[0]
    loud = torch.quantile(power.mean(dim=2), 0.9, dim=1).clamp(min=1e-6)[:, None, None]
    snr = _uniform(generator, (batch, 1, 1), *NOISE_SNR)
    noisy = power + loud * 10 ** (-snr / 10) * noise_power(power, generator)
    chosen = (torch.rand(batch, 1, 1, generator=generator) < BABBLE_CHANCE).float()
    babble = power.roll(1, dims=0) + power.roll(2, dims=0).roll(37, dims=1)
    babble = babble / babble.mean(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    snr = _uniform(generator, (batch, 1, 1), *BABBLE_SNR)
    return noisy + chosen * loud * 10 ** (-snr / 10) * babble


def augment(mel_db: Tensor, generator: torch.Generator) -> Tensor:
    """Return augmented mel decibels, (B, T, 80), for level-normalised ones."""
    power = 10 ** (mel_db / 10)
    power = warp_bands(power, generator)
    power = add_reverberation(power, generator)
    power = equalise(power, generator)
    power = add_noise(power, generator)
    power = limit_band(power, generator)
    power = mask_bands(power, generator)
    floor = 10 ** (_uniform(generator, (mel_db.shape[0], 1, 1), -100, -60) / 10)
    return 10 * torch.log10(power + floor)
