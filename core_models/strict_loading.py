"""Strict loading of weight files: every key accounted for, nothing executed, one copy in memory.

A module is built on the meta device, where it has shapes but no memory; the file's tensors are mapped to its
keys by a table and assigned. Anything missing, unexpected or misshapen is an error that lists all of it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Sizes = TypeVar("Sizes")

KeyTable = Mapping[str, str | None]
"""How the keys of a file map to those of a module: pattern -> new key, or None for keys dropped on purpose.

In a pattern {} stands for a number and * for anything; in the new key they stand for what was found, in order.
The first pattern that fits a whole key counts. A key that no pattern fits keeps its name, and so is reported as
unexpected unless the module has it.
"""

SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
PICKLE_SUFFIXES = frozenset({".pth", ".pt", ".ckpt", ".bin"})

BATCH_BYTES = 32 << 20
"""Bytes of a safetensors file that are converted to another dtype at a time."""


class WeightMismatchError(ValueError):
    """A weight file does not fit the module; the message lists every key at fault."""


class UnreadableWeightsError(ValueError):
    """A weight file is damaged, of another kind, or a pickle that wants to do more than hold tensors."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by their keys there, and its metadata (safetensors only)."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def load_strict(
    build: Callable[[], Module],
    path: str | os.PathLike[str],
    table: KeyTable | None = None,
    dtype: torch.dtype | None = None,
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Module:
    """Return the module that `build` makes, with the weights of a file, on the CPU, in evaluation mode.

    build: makes the module; it runs on the meta device, so it costs no memory. table: maps the file's keys.
    dtype: what floating point tensors become; None keeps the file's. adapt: a last change of the mapped state,
    such as naming a shared tensor twice.
    Raises FileNotFoundError; UnreadableWeightsError for a damaged or unsafe file; WeightMismatchError (both are
    ValueErrors) listing all missing, unexpected and misshapen keys.
    """
    state = map_keys(read_weights(path, dtype).tensors, table or {}, str(path))
    state = adapt(state) if adapt is not None else state
    with torch.device("meta"):
        module = build()
    require_matching_keys(module.state_dict(), state, str(path))
    module.load_state_dict(state, assign=True)
    return require_no_meta_tensors(module).eval()


def read_weights(path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> WeightFile:
    """Return the tensors of a .safetensors, .pth, .pt, .ckpt or .bin file, on the CPU.

    Nested dictionaries of a pickle are joined by dots ("model.encoder.weight"); what is not a tensor is left
    out. dtype: what floating point tensors become (fp8 ones too); None keeps them.
    Raises FileNotFoundError, and UnreadableWeightsError for a damaged or unsafe file or another kind of file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}")
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        return _read_safetensors(path, dtype)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        tensors = dict(_flattened(_unpickled(path)))
        if not tensors:
            raise UnreadableWeightsError(f"{path} holds no tensors")
        return WeightFile({name: _converted(value, dtype) for name, value in tensors.items()})
    known = ", ".join(sorted(SAFETENSORS_SUFFIXES | PICKLE_SUFFIXES))
    raise UnreadableWeightsError(f"{path} is not a weight file this package reads; it reads {known}")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises as `read_weights` does."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weight file {path}")
    with _opened(Path(path)) as file:
        return file.metadata() or {}


def read_sizes(
    path: str | os.PathLike[str], entry: str, rebuild: Callable[[object], Sizes], kind: str
) -> Sizes:
    """Return the sizes of a network that an entry of its file's metadata holds as JSON, read without the weights.

    rebuild: makes them of the JSON's values. kind: what such files are, for the error.
    Raises FileNotFoundError, and UnreadableWeightsError for a file without the entry, or one that cannot be read.
    """
    text = read_metadata(path).get(entry)
    if text is None:
        raise UnreadableWeightsError(f"{path} is not {kind}: its metadata has no sizes")
    try:
        return rebuild(json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its sizes ({text[:80]}) cannot be read: {error}") from error


def _read_safetensors(path: Path, dtype: torch.dtype | None) -> WeightFile:
    """Tensors that keep their dtype stay in the file's mapping, which costs their size once.

    Others are converted in batches, each from a mapping of its own: pages read for a batch are given back
    before the next, so that file and result are never in memory together.
    """
    with _opened(path) as file:
        metadata, names = file.metadata() or {}, list(file.keys())
    tensors: dict[str, Tensor] = {}
    while names:
        with _opened(path) as file:
            converted = 0
            while names and converted < BATCH_BYTES:
                name = names.pop(0)
                value = file.get_tensor(name)
                tensors[name] = _converted(value, dtype)
                converted += value.nbytes if tensors[name] is not value else 0
    return WeightFile(tensors, metadata)


def _opened(path: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(os.fspath(path), framework="pt")
    except SafetensorError as error:
        raise UnreadableWeightsError(
            f"{path} is not a whole safetensors file ({error}): {_what_else(path)}"
        ) from error


def _what_else(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page, saved in place of the file; delete it and fetch it again"
    return "delete it and fetch it again; 'talking-portrait weights verify' finds other damaged files"


def _unpickled(path: Path) -> object:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written before PyTorch 1.6: not a zip archive, cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.findall(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise UnreadableWeightsError(
                f"{path} was refused: opening it would run {', '.join(dict.fromkeys(wanted))}. A pickle can run "
                "any program on your computer, so this package reads only tensors from one. If you trust where "
                "it comes from, ask its author for a safetensors file"
            ) from error
        raise UnreadableWeightsError(f"{path} is not a whole PyTorch file: {_what_else(path)}") from error
    except (RuntimeError, EOFError, ValueError, OSError, LookupError) as error:
        raise UnreadableWeightsError(f"{path} is not a whole PyTorch file: {_what_else(path)}") from error


def _flattened(content: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content.detach()
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))


def _converted(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def map_keys(tensors: Mapping[str, Tensor], table: KeyTable, source: str) -> dict[str, Tensor]:
    """Return the tensors under a module's keys, without those the table drops.

    Raises WeightMismatchError when two keys would get one name.
    """
    rules = [(_pattern(old), new) for old, new in table.items()]
    mapped: dict[str, Tensor] = {}
    for key, value in tensors.items():
        new = _new_key(key, rules)
        if new is None:
            continue
        if new in mapped:
            raise WeightMismatchError(f"{source}: more than one key maps to {new!r}, {key!r} among them")
        mapped[new] = value
    return mapped


def _pattern(text: str) -> re.Pattern[str]:
    parts = (
        r"(\d+)" if part == "{}" else "(.*)" if part == "*" else re.escape(part) for part in _parts(text)
    )
    return re.compile("".join(parts))


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"(\{\}|\*)", text) if part]


def _new_key(key: str, rules: list[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, new in rules:
        found = pattern.fullmatch(key)
        if found is not None:
            values = iter(found.groups())
            return (
                None if new is None else "".join(next(values) if p in ("{}", "*") else p for p in _parts(new))
            )
    return key


def require_matching_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightMismatchError naming every missing, unexpected and misshapen key, unless there are none."""
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if found[name].shape != expected[name].shape
    ]
    if missing or unexpected or misshapen:
        strange = (
            " No key of it is one of the model's: it is the file of another model."
            if not (set(expected) & set(found))
            else ""
        )
        raise WeightMismatchError(
            f"{source} does not fit the model.{strange} Missing: {missing or 'none'}. "
            f"Unexpected: {unexpected or 'none'}. Misshapen: {misshapen or 'none'}."
        )


def require_no_meta_tensors(module: Module) -> Module:
    """Return the module; raise RuntimeError when a tensor of it is still without memory.

    Such are buffers that state dictionaries do not hold (persistent=False): a module must compute them in its
    forward pass instead.
    """
    left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if left:
        raise RuntimeError(f"{type(module).__name__}: no weight file holds {', '.join(left)}")
    return module
