"""What FantasyTalking asks of ComfyUI, as small modules: enough for its decisions, without a checkout."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import torch
from talking_portrait.core_models.types import AudioEmbedding
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_adapter import AudioAdapter
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjection,
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.core_attention import SoundBranch
from talking_portrait.runtime.fantasytalking_core import SoundOptions, patched_model
from talking_portrait.runtime.fantasytalking_core_weights import CoreAdapter

WIDTH, AUDIO_WIDTH, BLOCKS = 8, 6, 2
CHANNELS, FPS = 5, 23.0
FRAMES = 4
"""Latent frames: 13 of video."""


def module(name, **content):
    made = ModuleType(name)
    made.__dict__.update(content)
    return made


class Attention(torch.nn.Module):
    """Stands for ComfyUI's WanI2VCrossAttention."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        for name in ("q", "k", "v", "o", "k_img", "v_img"):
            setattr(self, name, torch.nn.Linear(WIDTH, WIDTH))
        for name in ("norm_q", "norm_k", "norm_k_img"):
            setattr(self, name, torch.nn.Identity())

    def forward(self, x, context, context_img_len, transformer_options=None):
        return x


class Block(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.cross_attn = attention


class Network(torch.nn.Module):
    """Stands for ComfyUI's WanModel."""

    patch_size = (1, 2, 2)

    def __init__(self, blocks=BLOCKS, dim=WIDTH, attention=Attention):
        super().__init__()
        self.dim = dim
        self.blocks = torch.nn.ModuleList(Block(attention()) for _ in range(blocks))


class Patcher:
    """Stands for ComfyUI's ModelPatcher."""

    def __init__(self, model, load_device=None, offload_device=None):
        self.model, self.model_options = model, {}
        self.object_patches, self.additional, self.wrappers = {}, {}, {}

    def clone(self):
        made = Patcher(self.model)
        made.object_patches, made.additional = dict(self.object_patches), dict(self.additional)
        made.wrappers = {
            kind: {key: list(one) for key, one in of.items()} for kind, of in self.wrappers.items()
        }
        return made

    def add_object_patch(self, name, value):
        self.object_patches[name] = value

    def set_additional_models(self, key, models):
        self.additional[key] = models

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def get_model_object(self, name):
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return self.object_patches.get(name, found)


class CFGGuider:
    """Stands for ComfyUI's guider."""

    def __init__(self, patcher):
        self.model_patcher, self.inner_model, self.conds = patcher, patcher.model, {}

    def inner_set_conds(self, conds):
        self.conds = dict(conds)


@contextlib.contextmanager
def stand_in_comfyui(monkeypatch, calc_cond_batch=None, interrupted=lambda: None):
    """ComfyUI's modules in sys.modules for a while."""
    management = module(
        "comfy.model_management",
        get_torch_device=lambda: torch.device("cpu"),
        unet_offload_device=lambda: torch.device("cpu"),
        unet_dtype=lambda device, model_params: torch.float32,
        throw_exception_if_processing_interrupted=interrupted,
    )
    Attention.forward.__module__ = Attention.__module__
    wan = module(
        "comfy.ldm.wan.model",
        WanModel=Network,
        WanI2VCrossAttention=Attention,
        optimized_attention=lambda query, key, value, heads, transformer_options: query,
    )
    kinds = SimpleNamespace(DIFFUSION_MODEL="network", OUTER_SAMPLE="sampling", APPLY_MODEL="model")
    modules = {
        "comfy.model_management": management,
        "comfy.model_patcher": module("comfy.model_patcher", ModelPatcher=Patcher),
        "comfy.ops": module("comfy.ops", manual_cast=SimpleNamespace(Linear=torch.nn.Linear)),
        "comfy.patcher_extension": module("comfy.patcher_extension", WrappersMP=kinds),
        "comfy.samplers": module("comfy.samplers", CFGGuider=CFGGuider, calc_cond_batch=calc_cond_batch),
        "comfy.ldm.wan.model": wan,
    }
    parents = {name: module(name) for name in ("comfy", "comfy.ldm", "comfy.ldm.wan")}
    for name, made in (parents | modules).items():
        monkeypatch.setitem(sys.modules, name, made)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, made)
    yield wan


def new_adapter(blocks=BLOCKS, width=WIDTH):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = AudioProjection(AudioProjectionParameters(CHANNELS, AUDIO_WIDTH))
        branch = SoundBranch(blocks, width, AUDIO_WIDTH).requires_grad_(False)
    return CoreAdapter(AudioAdapter(projection.requires_grad_(False), branch), Patcher(branch), "made")


def new_model(**sizes):
    return Patcher(SimpleNamespace(diffusion_model=Network(**sizes)))


def embedding(seconds=13 / FPS, encoder="wav2vec2", channels=CHANNELS):
    steps = max(1, int(50 * seconds))
    features = torch.randn(steps, 1, channels, generator=torch.Generator().manual_seed(1))
    return AudioEmbedding(features, 50.0, seconds, encoder)


def patched(model=None, **options):
    return patched_model(model or new_model(), new_adapter(), embedding(), SoundOptions(**options))
