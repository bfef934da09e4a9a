"""Portraits that talk: ComfyUI nodes and a headless library. Importing this loads no torch.

The names of the Python interface, such as `load_portrait` and `sample`, are loaded when they are first asked for; see
docs/python.md.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

if __package__:  # empty only when pytest imports this file as a top-level module
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
else:
    NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface. Raises AttributeError for another one."""
    if name.startswith("__") or not __package__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .api import exported_value

    return exported_value(__package__, name)


def __dir__() -> list[str]:
    """Return what is here and what the Python interface adds."""
    if not __package__:
        return sorted(globals())
    from .api import EXPORTED

    return sorted({*globals(), *EXPORTED})
