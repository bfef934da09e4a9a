"""Figures of a training run for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .kdtalker_run import Metrics

METRICS_FOLDER = "metrics"
FLUSH_SECONDS = 10
"""What a killed run may lose of its figures."""


@contextmanager
def tensorboard_metrics(run: Path, step: int) -> Iterator[Metrics]:
    """Give what writes figures into `metrics` in a run's folder, for use in a `with`.

    step: where the run goes on; figures of later steps, left by an earlier attempt, are no longer shown.
    Raises ImportError saying what to install when TensorBoard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "the figures of a training go to TensorBoard, which is not installed: pip install tensorboard (or "
            "'talking-portrait[train]'), or train with --no-metrics"
        ) from error
    with SummaryWriter(str(run / METRICS_FOLDER), purge_step=step + 1, flush_secs=FLUSH_SECONDS) as writer:

        def write(at: int, figures: Mapping[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, at)

        yield write
