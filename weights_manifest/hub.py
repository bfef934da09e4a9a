"""Files of the Hugging Face hub, through its own library: addresses, logins, sizes, checksums, refusals.

The bytes go through our own downloader: huggingface_hub deletes an unfinished file when a download ends early
(seen in 2.4), and cannot be cancelled in older versions; weights of 30 GB need both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .downloading import FetchError
from .manifest import WeightRow

_SHA256_DIGITS = 64


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file: its size, its sha256 (None for small files kept in git), and the commit."""

    url: str
    bytes: int | None
    sha256: str | None
    revision: str | None


def hub_file(row: WeightRow) -> HubFile:
    """Ask the hub for the size and checksum of a row's file.

    Raises FetchError, saying how to get access, when the hub refuses or cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    source = row.source
    url = hf_hub_url(source.repository, source.file, revision=source.revision, endpoint=_endpoint())
    with _explained(row):
        found = get_hf_file_metadata(url)
    tag = (found.etag or "").strip('"')
    checksum = tag if len(tag) == _SHA256_DIGITS and not set(tag) - set("0123456789abcdef") else None
    return HubFile(url, found.size, checksum, found.commit_hash)


def login_headers() -> dict[str, str]:
    """Return the header that carries the user's hub login (HF_TOKEN, or 'hf auth login'); empty without one."""
    from huggingface_hub.utils import build_hf_headers

    token = build_hf_headers().get("authorization")
    return {"Authorization": token} if token else {}


def _endpoint() -> str | None:
    """The hub's address: mirrors are named by HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@contextmanager
def _explained(row: WeightRow) -> Iterator[None]:
    """Turn what the hub's library raises into a FetchError that says what to do."""
    try:
        yield
    except Exception as error:
        raise FetchError(f"cannot fetch {row.name} ({row.file}): {_explanation(row, error)}") from error


def _explanation(row: WeightRow, error: Exception) -> str:
    from huggingface_hub import errors

    page = f"{_endpoint() or 'https://huggingface.co'}/{row.source.repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    login = "log in with 'hf auth login', or set HF_TOKEN to a token of your account"
    if isinstance(error, errors.GatedRepoError):
        return f"its repository is gated: open {page}, accept the licence, then {login}"
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        return f"{page} needs a login, or has moved: {login} (HTTP 401 Unauthorized)"
    if status == 403:
        return f"{page} refused access (HTTP 403): accept the licence there, {login}, or check the network's rules"
    if status == 404 or isinstance(error, (errors.EntryNotFoundError, errors.RevisionNotFoundError)):
        return (
            f"{page} has no such file {row.source.file} at revision {row.source.revision} (HTTP 404): it may "
            "have moved; look for a newer version of this package"
        )
    if status is not None:
        return f"{page} answered HTTP {status}: the server has a problem, try again later"
    return (
        f"{page} cannot be reached: {error}; check the network connection; mirrors are named by HF_ENDPOINT"
    )
