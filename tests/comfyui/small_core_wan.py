"""A small Wan as ComfyUI builds it, and this package as ComfyUI imports it, for the program `wan_checks`.

Read in ComfyUI's interpreter only: importing this starts ComfyUI's parts on the CPU.
"""

# ruff: noqa: E402
# ComfyUI reads the command line when its first module is imported.

import importlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from pathlib import Path

COMFYUI, PACKAGE, GOLDEN, RESULT = (Path(argument).resolve() for argument in sys.argv[1:5])
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, str(COMFYUI))
os.chdir(COMFYUI)

import comfy.options

comfy.options.enable_args_parsing()

import comfy.model_base as model_base
import comfy.model_management as management
import comfy.samplers as samplers
import comfy.supported_models as supported_models
import folder_paths  # noqa: F401
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

torch.set_num_threads(1)


def loaded_package():
    """This package as ComfyUI imports it: under a name made of its path."""
    name = str(PACKAGE).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(
        name, PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name


NAME = loaded_package()


def ours(path):
    return importlib.import_module(f"{NAME}.{path}")


core = ours("runtime.fantasytalking_core")
core_weights = ours("runtime.fantasytalking_core_weights")
core_guider = ours("runtime.fantasytalking_core_guider")
core_attention = ours("core_models.video_diffusion.fantasytalking.core_attention")
guidance = ours("core_models.video_diffusion.fantasytalking.guidance")
audio_windows = ours("core_models.video_diffusion.fantasytalking.audio_windows")
clip_conditions = ours("core_models.video_diffusion.fantasytalking.clip_conditions")
flow_matching = ours("core_models.video_diffusion.wan.flow_matching")
types = ours("core_models.types")


def golden_tools():
    path = GOLDEN / "deterministic_weights.py"
    path = path if path.is_file() else PACKAGE / "tests" / "golden" / path.name
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS = golden_tools()


def case_and_arrays(name):
    path = GOLDEN / "fantasytalking" / f"{name}.json"
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text()), {key: arrays[key] for key in arrays.files}


def made(call):
    name, shape = re.search(r"input_for\('(\w+)', \(([\d, ]+)\)", str(call)).groups()
    return TOOLS.input_for(name, tuple(int(size) for size in re.findall(r"\d+", shape)))


def furthest(case, arrays, name, value):
    stride = case["outputs"][name]["stride"]
    sampled = value.detach().float()[tuple(slice(None, None, step) for step in stride)]
    return float(np.abs(sampled.numpy() - arrays[name]).max())


DIT, DIT_ARRAYS = case_and_arrays("dit")
CONFIG = DIT["config"]
AUDIO_WIDTH = DIT["inputs"]["audio_proj_shape"][-1]
FRAMES = DIT["inputs"]["latents_num_frames"]
LATENTS, IMAGE, PICTURE, FEATURES = (
    made(DIT["inputs"][key]) for key in ("x", "y", "clip_fea", "audio_features")
)
SHAPE = tuple(LATENTS.shape)


def padded(call):
    text = made(call)[None]
    return torch.nn.functional.pad(text, (0, 0, 0, CONFIG["text_len"] - text.shape[1]))


PROMPT, NEGATIVE = padded(DIT["inputs"]["context"]), padded(DIT["inputs"]["negative_context"])


def filled(module, state, gain=1.0):
    """Fill a module with the golden weights of the names it has."""
    values = {
        name: torch.from_numpy(TOOLS.tensor_for(name, tuple(shape), gain)) for name, shape in state.items()
    }
    known = set(module.state_dict())
    module.load_state_dict({name: value for name, value in values.items() if name in known}, strict=True)
    return module


def new_wan(model_type="i2v", **changes):
    """A small Wan as ComfyUI builds it, in a ModelPatcher."""
    config = {key: CONFIG[key] for key in CONFIG if key != "patch_size"} | changes
    config |= {"image_model": "wan2.1", "model_type": model_type, "patch_size": tuple(CONFIG["patch_size"])}
    settings = (supported_models.WAN21_I2V if model_type == "i2v" else supported_models.WAN21_T2V)(config)
    settings.unet_config |= {"dtype": torch.float32}
    settings.set_inference_dtype(torch.float32, None)
    model = model_base.WAN21(settings, image_to_video=model_type == "i2v").eval().requires_grad_(False)
    if model_type == "i2v" and not changes:
        filled(model.diffusion_model, DIT["state_dict"], DIT["gain"])
    return ModelPatcher(model, management.get_torch_device(), management.unet_offload_device())


def adapter_file(folder, blocks=CONFIG["num_layers"], width=CONFIG["dim"]):
    """The golden case's audio weights as the released file holds them."""
    attention = {
        key: torch.from_numpy(TOOLS.tensor_for(key, tuple(shape), DIT["gain"]))
        for key, shape in DIT["state_dict"].items()
        if ".processor." in key
    }
    if (blocks, width) != (CONFIG["num_layers"], CONFIG["dim"]):
        attention = {
            f"blocks.{block}.cross_attn.processor.{part}_proj.weight": torch.ones(width, AUDIO_WIDTH)
            for block in range(blocks)
            for part in "kv"
        }
    projection = {
        "proj.weight": torch.from_numpy(TOOLS.tensor_for("proj.weight", (AUDIO_WIDTH, 48), DIT["gain"])),
        "norm.weight": torch.from_numpy(TOOLS.tensor_for("norm.weight", (AUDIO_WIDTH,), DIT["gain"])),
        "norm.bias": torch.from_numpy(TOOLS.tensor_for("norm.bias", (AUDIO_WIDTH,), DIT["gain"])),
    }
    path = Path(folder) / f"audio_{blocks}_{width}.ckpt"
    torch.save({"proj_model": projection, "audio_processor": attention}, path)
    return str(path)


FOLDER = tempfile.TemporaryDirectory()
ADAPTER = core_weights.load_core_adapter(adapter_file(FOLDER.name))


def embedding(frames=FRAMES, seed=None):
    """The golden case's features, or others; their rate is such that they last as long as the frames."""
    video = 4 * (frames - 1) + 1
    features = FEATURES[0][:, None]
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(2 * video + 1, 1, 48, generator=generator)
    return types.AudioEmbedding(features, len(features) / video * 23.0, video / 23.0, "wav2vec2")


def patched(model, frames=FRAMES, seed=None, **options):
    made_options = core.SoundOptions(**{"frames": 4 * (frames - 1) + 1} | options)
    return core.patched_model(model, ADAPTER, embedding(frames, seed), made_options)[0]


def in_place(model):
    """ComfyUI loads a model, as it does before sampling."""
    management.load_models_gpu([model, *model.get_nested_additional_models()])
    return model.model.diffusion_model


def evaluated(model, timestep, latents=None, text=PROMPT, **options):
    """One evaluation of the network, with the wrappers that sampling would pass on."""
    network = in_place(model)
    latents = LATENTS if latents is None else latents
    count, wrappers = len(latents), {kind: dict(of) for kind, of in model.wrappers.items()}
    x = torch.cat([latents, IMAGE.expand(count, *IMAGE.shape[1:])[:, :, : latents.shape[2]]], dim=1)
    with torch.no_grad():
        return network(
            x,
            torch.full((count,), float(timestep)),
            text.expand(count, *text.shape[1:]),
            clip_fea=PICTURE.expand(count, *PICTURE.shape[1:]),
            transformer_options={"wrappers": wrappers, **options},
        )


def conditioning(text=PROMPT, frames=FRAMES):
    """CONDITIONING as CLIP and WanImageToVideo make it: the picture's latents, mask and CLIP tokens."""
    latent_format = supported_models.WAN21_I2V.latent_format()
    repeated = IMAGE[:, :, [0] + [1] * (frames - 1)] if frames != FRAMES else IMAGE

    class ClipVision:
        penultimate_hidden_states = PICTURE

    values = {
        "concat_latent_image": latent_format.process_out(repeated[:, 4:]),
        "concat_mask": 1.0 - repeated[:, :4],
        "clip_vision_output": ClipVision(),
    }
    return [[text, values]]


def sampled(model, guider=None, steps=3, frames=FRAMES, seed=1111, schedule=None, sampler="euler", **named):
    """The latents of core's own custom sampling, normalised as the network sees them."""
    if guider is None:
        guider = core_guider.new_guider(
            model, conditioning(PROMPT, frames), conditioning(NEGATIVE, frames), schedule or scales(5, 5)
        )
    shape = (1, 16, frames, *SHAPE[3:])
    sigmas = flow_matching.shifted_sigmas(steps, 5.0)
    with torch.inference_mode():
        found, _ = SamplerCustomAdvanced().sample(
            Noise_RandomNoise(seed),
            guider,
            samplers.sampler_object(sampler),
            sigmas,
            {"samples": torch.zeros(shape)},
        )
    return supported_models.WAN21_I2V.latent_format().process_in(found["samples"]).clone()


def scales(prompt, audio, audio_interval=(0.0, 1.0)):
    return guidance.GuidanceSchedule(
        guidance.GuidanceScales(prompt, audio), audio=guidance.Interval(*audio_interval)
    )


def weights_of(model):
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)
