"""What the commands that make clips of made heads share: which people, and where the clips go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_people_options(parser: argparse.ArgumentParser) -> None:
    """Add the file that clips go to, the people in them, and what they are drawn by."""
    parser.add_argument("--out", type=Path, required=True, metavar="X.npz")
    parser.add_argument(
        "--held-out", action="store_true", help="people and sentences that training never sees"
    )
    parser.add_argument("--people", type=int, metavar="N", help="default: 200, or 16 with --held-out")
    parser.add_argument("--clips-each", type=int, metavar="N", help="of every person (default: 2)")
    parser.add_argument("--seed", type=int, metavar="N", help="of sentences and movements")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")


def chosen_people(
    options: argparse.Namespace, training: tuple[int, int], held_out: tuple[int, int]
) -> tuple[Sequence[int], int]:
    """Return the identities and the seed asked for. training, held_out: how many, and the seed, where none is said.

    Raises ValueError for more people than there are, or none.
    """
    from ..training.made_heads.clip import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES

    known = HELD_OUT_IDENTITIES if options.held_out else TRAINING_IDENTITIES
    count, seed = held_out if options.held_out else training
    count = count if options.people is None else options.people
    if not 1 <= count <= len(known):
        raise ValueError(f"--people is {count}, expected 1 to {len(known)}")
    return known[:count], seed if options.seed is None else options.seed


def require_new_clips(target: Path) -> None:
    """Raise ValueError for a file of clips that is there already, or another suffix."""
    if target.suffix.lower() != ".npz":
        raise ValueError(f"clips are written as .npz, but the name is {target.name!r}")
    if target.exists():
        raise ValueError(f"{target} is there already: delete it to make it anew, or choose another name")
