"""Constants as nodes."""

from __future__ import annotations

import sys
from typing import Any


class PrimitiveInt:
    """A whole number."""

    CATEGORY = "utils/primitive"
    RETURN_TYPES = ("INT",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        limits = {"min": -sys.maxsize, "max": sys.maxsize, "control_after_generate": True}
        return {"required": {"value": ("INT", limits)}}

    def give(self, value: Any) -> tuple[Any]:
        """Return the value."""
        return (value,)


class PrimitiveFloat:
    """A number."""

    CATEGORY = "utils/primitive"
    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("FLOAT", {"min": -sys.maxsize, "max": sys.maxsize})}}

    def give(self, value: float) -> tuple[float]:
        """Return the value."""
        return (value,)


class PrimitiveString:
    """A line of text."""

    CATEGORY = "utils/primitive"
    RETURN_TYPES = ("STRING",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("STRING", {})}}

    def give(self, value: str) -> tuple[str]:
        """Return the value."""
        return (value,)


class PrimitiveStringMultiline(PrimitiveString):
    """Several lines of text."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("STRING", {"multiline": True})}}


class PrimitiveBoolean:
    """Yes or no."""

    CATEGORY = "utils/primitive"
    RETURN_TYPES = ("BOOLEAN",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("BOOLEAN", {})}}

    def give(self, value: bool) -> tuple[bool]:
        """Return the value."""
        return (value,)
