"""Small UNets of ACTalker and what they are steered by."""

import torch
from talking_portrait.core_models.video_diffusion.actalker.controls import ControlSignal, Region, UNetControls
from talking_portrait.core_models.video_diffusion.actalker.sampler import ClipConditions, SignalTokens
from talking_portrait.core_models.video_diffusion.actalker.unet import ACTalkerUNet, UNetParameters

WIDTH, CHANNELS, HEIGHT_AND_WIDTH = 16, 32, 8
SMALL = UNetParameters(
    channels=(CHANNELS, 32), heads=(2, 2), condition_width=WIDTH, time_condition_width=8, layers=1
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new_unet(parameters=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ACTalkerUNet(parameters).eval().requires_grad_(False)


def rows(first, last, height=HEIGHT_AND_WIDTH, width=HEIGHT_AND_WIDTH):
    """Mask of the latents' rows first..last - 1, eight pixels for each latent."""
    mask = torch.zeros(8 * height, 8 * width)
    mask[8 * first : 8 * last] = 1
    return mask


MOUTH, EYES = (Region(rows(4, 8)),), (Region(rows(0, 4)),)
"""Regions whose edges are those of tokens at every level of the small UNet."""


def controls(audio=(), motion=(), batch=1, frames=3, heard=None, moved=None, seed=0):
    """Controls of random tokens, unless other ones are given."""
    heard = normal(batch, frames, 5, WIDTH, seed=seed + 1) if heard is None else heard
    moved = normal(batch, frames, 1, WIDTH, seed=seed + 2) if moved is None else moved
    identity = normal(batch, 1, 1, WIDTH, seed=seed + 3).expand(-1, frames, -1, -1)
    return UNetControls(identity, ControlSignal(heard, tuple(audio)), ControlSignal(moved, tuple(motion)))


def run(unet, steering, height=HEIGHT_AND_WIDTH, width=HEIGHT_AND_WIDTH, posed=True):
    """The UNet's output for latents that depend on their shape alone."""
    batch, frames = steering.identity.shape[:2]
    pose = normal(batch, frames, CHANNELS, height, width, seed=8) if posed else None
    return unet(
        normal(batch, frames, 8, height, width, seed=7),
        torch.tensor(0.4),
        steering,
        torch.tensor([12.5, 12, 20]).expand(batch, -1),
        pose,
    )


def clip(frames, audio=MOUTH, motion=EYES, height=HEIGHT_AND_WIDTH, width=HEIGHT_AND_WIDTH, **changed):
    """The conditions of a clip, from random tokens, some of its parts changed."""
    parts = {
        "identity": normal(1, WIDTH, seed=1),
        "audio": SignalTokens(normal(frames, 5, WIDTH, seed=2), normal(5, WIDTH, seed=3), audio),
        "motion": SignalTokens(normal(frames, 1, WIDTH, seed=4), normal(1, WIDTH, seed=5), motion),
        "portrait": normal(4, height, width, seed=6),
        "pose": 0.1 * normal(CHANNELS, height, width, seed=7),
        "time_conditions": torch.tensor([12.5, 12, 20]),
    }
    return ClipConditions(**parts | changed)
