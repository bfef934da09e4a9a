"""The several files of a model on this machine, all found or all missing ones named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..weights_manifest.manifest import WeightRow, weight_row
from .weights import WeightNotFoundError, fetch_folder, fetch_weight, find_weight, origin

PROGRESS_STEPS = 1000
"""Steps of the bar for one file that is fetched."""

SYSTEM_NAMES = {
    "liveportrait": "LivePortrait",
    "kdtalker": "KDTalker",
    "hubert_large": "HuBERT large",
    "hubert_base": "HuBERT base",
    "whisper_tiny": "Whisper tiny",
    "wav2vec2_base_960h": "wav2vec 2.0",
    "actalker": "ACTalker",
    "fantasytalking": "FantasyTalking",
    "wan21_i2v_14b": "Wan 2.1 I2V 14B",
}
"""Systems as people write them."""


def found_files(
    rows: Mapping[str, tuple[str, ...]],
    system: str,
    loader: str | None,
    advice: str,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Return {part: path} of a model's files.

    rows: {part: the manifest rows that will do, the first of which is fetched}. system: what to fetch to have all of
    them. loader: the node that loads them, which has a switch 'download_if_missing'; None where there is no such.
    advice: what else can be done, one sentence without its full stop. download: fetch what is missing.
    Raises WeightNotFoundError (an OSError) that lists every missing part and the command that fetches them.
    """
    paths: dict[str, Path] = {}
    missing: list[str] = []
    for index, (part, names) in enumerate(rows.items()):
        found, damaged = first_found(names)
        if found is None and download:
            found = fetch_weight(names[0], share_of_the_bar(progress, index, len(rows)))
        if found is None:
            missing.append(f"{part} ({'; '.join(damaged)})" if damaged else part)
        else:
            paths[part] = found
    if missing:
        row = weight_row(next(iter(rows.values()))[0])
        folder = (fetch_folder(row) / row.file).parent
        switch = "" if loader is None else f" or switch on 'download_if_missing' in {loader},"
        raise WeightNotFoundError(
            f"{SYSTEM_NAMES[system]}'s files are not on this computer: {', '.join(missing)}. Run 'talking-portrait "
            f"weights fetch {system}',{switch} or put them into {folder}. {advice}"
        )
    return paths


def share_of_the_bar(
    progress: Callable[[int, int], None] | None, index: int, files: int
) -> Callable[[int, int], None] | None:
    """Return progress of file `index` as a part of one bar over all files, which never goes back."""
    if progress is None:
        return None
    whole = PROGRESS_STEPS * files
    return lambda done, total: progress(
        PROGRESS_STEPS * index + PROGRESS_STEPS * done // max(total, 1), whole
    )


def first_found(names: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """Return the path of the first of these rows that is here, and what was found and not taken, a sentence each."""
    damaged: list[str] = []
    for name in names:
        try:
            return find_weight(name), []
        except WeightNotFoundError as error:
            damaged += error.damaged
    return None, damaged


def found_or_explained(
    rows: Mapping[str, str],
    system: str,
    loader: str,
    advice: str,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Return {part: path} of a model's files, some of which only a person can get.

    rows: {part: manifest row}. The rest as for `found_files`, but nothing is fetched while a file is missing that
    cannot be. Raises WeightNotFoundError that names every missing file, where it comes from and where it belongs.
    """
    found = {part: first_found((name,)) for part, name in rows.items()}
    paths = {part: path for part, (path, _) in found.items() if path is not None}
    missing = {part: weight_row(rows[part]) for part, (path, _) in found.items() if path is None}
    if download and all(row.source.kind in ("url", "hub") for row in missing.values()):
        for index, (part, row) in enumerate(missing.items()):
            paths[part] = fetch_weight(row.name, share_of_the_bar(progress, index, len(missing)))
        return paths
    if missing:
        damaged = "".join(f" {line}." for _, lines in found.values() for line in lines)
        raise WeightNotFoundError(
            f"{SYSTEM_NAMES[system]}'s files are not on this computer; missing are\n{where_from(missing.values())}\n"
            f"'talking-portrait weights fetch {system}' (or, once only those are missing that can be fetched, "
            f"'download_if_missing' in {loader}) fetches what can be fetched.{damaged} {advice}"
        )
    return paths


def where_from(rows: Iterable[WeightRow]) -> str:
    """Return a line for each source and folder: the files, whence, and whereto."""
    lines: dict[tuple[str, Path], list[str]] = {}
    for row in rows:
        gated = ", after its licence has been accepted there" if row.gated else ""
        source = origin(row).partition(". ")[0] + gated
        place = (fetch_folder(row) / row.file).parent
        lines.setdefault((source, place), []).append(f"{Path(row.file).name} ({row.role})")
    return "\n".join(
        f"- {', '.join(files)}: {source}; into {place}" for (source, place), files in lines.items()
    )
