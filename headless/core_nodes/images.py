"""Pictures: loading, saving, previewing, batching, scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.input_files import input_path
from ...runtime.output_files import next_output_file, prefix_validity, workflow_metadata
from .uploads import fingerprint, upload_input, validity

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

NO_MASK_SIZE = (64, 64)
"""Size of the empty mask of a picture without transparency."""

MASK_CHANNELS = ["alpha", "red", "green", "blue"]

SIXTEEN_BIT_TO_EIGHT = 257

LANCZOS = "lanczos"
SCALINGS = ("nearest-exact", "bilinear", "area", "bicubic", LANCZOS)

FAST_PNG, SMALL_PNG = 1, 4


class LoadImage:
    """A picture file as IMAGE, and what is transparent in it as MASK. Animated files give several pictures."""

    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": upload_input("image_upload", "image")}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:
        return validity(image, "image")

    @classmethod
    def IS_CHANGED(cls, image: str | None) -> str | float:
        return fingerprint(image)

    def load_image(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return IMAGE (B, H, W, 3) and MASK (B, H, W), 1 where transparent."""
        import torch

        pictures = _pictures(image)
        images = torch.cat([_image_tensor(picture) for picture in pictures])
        return images, torch.cat([_transparency(picture) for picture in pictures])


def _pictures(name: str) -> list[Image]:
    """Return the upright pictures of a file that have the size of the first. MPO files give the first only."""
    from PIL import Image, ImageOps, ImageSequence

    with Image.open(input_path(name)) as file:
        frames = [file] if file.format == "MPO" else ImageSequence.Iterator(file)
        upright = [_eight_bit(ImageOps.exif_transpose(frame.copy())) for frame in frames]
    return [picture for picture in upright if picture.size == upright[0].size]


def _eight_bit(picture: Image) -> Image:
    """Return 16-bit grey pictures as 8-bit ones, others as they are."""
    import numpy as np
    from PIL import Image

    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64) // SIXTEEN_BIT_TO_EIGHT
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _image_tensor(picture: Image) -> torch.Tensor:
    return _channel_tensor(picture.convert("RGB"))


def _channel_tensor(picture: Image) -> torch.Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture).astype(np.float32) / 255)[None]


def _transparency(picture: Image) -> torch.Tensor:
    import torch

    if "A" not in picture.getbands():
        if "transparency" not in picture.info:
            return torch.zeros((1, *NO_MASK_SIZE))
        picture = picture.convert("RGBA")
    return 1 - _channel_tensor(picture.getchannel("A"))


class LoadImageMask:
    """One channel of a picture file as MASK; the alpha channel inverted, so that transparent is 1."""

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": upload_input("image_upload", "image"), "channel": (MASK_CHANNELS,)}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:
        return validity(image, "image")

    @classmethod
    def IS_CHANGED(cls, image: str | None, channel: str | None) -> str | float:
        return fingerprint(image)

    def load_image(self, image: str, channel: str) -> tuple[torch.Tensor]:
        """Return MASK (1, H, W)."""
        picture = _pictures(image)[0].convert("RGBA")
        mask = _channel_tensor(picture.getchannel(channel[0].upper()))
        return (1 - mask if channel == "alpha" else mask,)


class SaveImage:
    """PNG files in the output folder, with the graph inside."""

    CATEGORY = "image"
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    KIND = "output"
    COMPRESSION = SMALL_PNG

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to save."}),
                "filename_prefix": (
                    "STRING",
                    {"default": "ComfyUI", "tooltip": "Where in the output folder."},
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = "") -> bool | str:
        return prefix_validity(filename_prefix)

    def save_images(
        self,
        images: torch.Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write one file per picture."""
        metadata = workflow_metadata(prompt, extra_pnginfo)
        references = []
        for number, image in enumerate(images):
            prefix = filename_prefix.replace("%batch_num%", str(number))
            output = next_output_file(prefix, ".png", (image.shape[1], image.shape[0]), self.KIND)
            _write_png(image, output.path, metadata, self.COMPRESSION)
            references.append(output.reference)
        return {"ui": {"images": references}}


def _write_png(image: torch.Tensor, path: Any, metadata: dict[str, str], compression: int) -> None:
    """Write one picture whole or not at all."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    tags = PngInfo()
    for key, text in metadata.items():
        tags.add_text(key, text)
    pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
    unfinished = path.with_suffix(".part")
    try:
        Image.fromarray(pixels).save(unfinished, format="PNG", pnginfo=tags, compress_level=compression)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class PreviewImage(SaveImage):
    """PNG files in the temporary folder."""

    KIND = "temp"
    COMPRESSION = FAST_PNG

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }


class ImageBatch:
    """Two batches of pictures as one; the second is scaled and cropped to the size of the first."""

    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "batch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1: torch.Tensor, image2: torch.Tensor) -> tuple[torch.Tensor]:
        """Return IMAGE (B1 + B2, H, W, C)."""
        import torch

        if image1.shape[1:] != image2.shape[1:]:
            image2 = _filling(image2, image1.shape[1], image1.shape[2])
        return (torch.cat((image1, image2)),)


def _filling(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return pictures cropped about their middle to the wanted proportions, then scaled bilinearly."""
    import torch

    old_height, old_width = images.shape[1:3]
    left = max(0, round((old_width - old_height * width / height) / 2))
    top = max(0, round((old_height - old_width * height / width) / 2))
    cropped = images[:, top : old_height - top, left : old_width - left].movedim(-1, 1)
    return torch.nn.functional.interpolate(cropped, (height, width), mode="bilinear").movedim(1, -1)


class RepeatImageBatch:
    """A batch of pictures several times over."""

    CATEGORY = "image/batch"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "repeat"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        amount = ("INT", {"default": 1, "min": 1, "max": 4096})
        return {"required": {"image": ("IMAGE",), "amount": amount}}

    def repeat(self, image: torch.Tensor, amount: int) -> tuple[torch.Tensor]:
        """Return IMAGE (B * amount, H, W, C)."""
        return (image.repeat((amount, 1, 1, 1)),)


class ImageScaleBy:
    """Pictures made larger or smaller by a factor."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        factor = ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01})
        return {"required": {"image": ("IMAGE",), "upscale_method": (list(SCALINGS),), "scale_by": factor}}

    def upscale(self, image: torch.Tensor, upscale_method: str, scale_by: float) -> tuple[torch.Tensor]:
        """Return IMAGE (B, round(H * factor), round(W * factor), C)."""
        import torch

        height, width = (round(side * scale_by) for side in image.shape[1:3])
        if upscale_method == LANCZOS:
            return (torch.stack([_with_lanczos(picture, height, width) for picture in image]),)
        scaled = torch.nn.functional.interpolate(image.movedim(-1, 1), (height, width), mode=upscale_method)
        return (scaled.movedim(1, -1),)


def _with_lanczos(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a picture (H, W, C) scaled in eight bits, as ComfyUI does it."""
    import numpy as np
    import torch
    from PIL import Image

    levels = np.clip(255.0 * picture.cpu().numpy(), 0, 255).astype(np.uint8)
    scaled = Image.fromarray(levels).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled).astype(np.float32) / 255)
