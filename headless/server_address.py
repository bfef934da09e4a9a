"""Where a ComfyUI server is and the credentials it wants, which no message shows."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

from .server_errors import ServerAddressError

HEADERS_VARIABLE = "TALKING_PORTRAIT_SERVER_HEADERS"
"""Environment variable of headers that every request carries, "Name: value", one per line."""

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
HIDDEN = "***"
SHORTEST_SECRET = 4
"""Characters: shorter texts are found everywhere and would make messages unreadable."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class ServerAddress:
    """A server's address.

    base: scheme, host, port and path, without a slash at the end. query: what follows every path, such as a token.
    headers: what every request carries. Query and headers may be secret: neither `repr` nor a message shows them.
    """

    base: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return the whole URL of a path, for asking, not for showing."""
        parts = [text for text in (urlencode(query or {}, quote_via=quote), self.query) if text]
        return f"{self.base}{path}" + (f"?{'&'.join(parts)}" if parts else "")

    def hidden(self, text: str) -> str:
        """Return a text with every credential that is in it struck out."""
        for secret in self._secrets():
            text = text.replace(secret, HIDDEN)
        return text

    def hidden_in(self, content: Any) -> Any:
        """Return what JSON may hold with every credential in its texts struck out; keys stay."""
        if isinstance(content, str):
            return self.hidden(content)
        if isinstance(content, Mapping):
            return {key: self.hidden_in(value) for key, value in content.items()}
        return [self.hidden_in(value) for value in content] if isinstance(content, list) else content

    def _secrets(self) -> list[str]:
        """Return the texts that must not be shown, the longest first."""
        values = re.findall(r"=([^&]*)", self.query)
        found = [*values, *map(unquote, values), self.query]
        for value in self.headers.values():
            found += [value, *value.split()[1:], *_basic_credentials(value)]
        found += [json.dumps(text)[1:-1] for text in found]
        return sorted({text for text in found if len(text) >= SHORTEST_SECRET}, key=len, reverse=True)


def server_address(url: str, headers: Mapping[str, str] | None = None) -> ServerAddress:
    """Return the address that a URL such as http://127.0.0.1:8188 or https://name:password@host/comfy means.

    Without a scheme it is http. A name and password become an Authorization header; a query, such as ?token=...,
    is added to every request. headers: further ones; with None those of the environment (`HEADERS_VARIABLE`).
    Raises ServerAddressError.
    """
    parts = _parts(url)
    given = header_fields(os.environ.get(HEADERS_VARIABLE, "").splitlines()) if headers is None else headers
    _expect_usable(given)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    place = host if parts.port is None else f"{host}:{parts.port}"
    base = urlunsplit(
        (SCHEMES[parts.scheme.lower()], place, quote(parts.path.rstrip("/"), safe="/%"), "", "")
    )
    return ServerAddress(base, quote(parts.query, safe="=&%+,:;/~"), {**_authorization(parts), **given})


def _parts(url: str) -> SplitResult:
    """Return the parts of a URL; refuses what is no server's. The texts leave out what may be a password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise ServerAddressError(
            "the server's URL has a bad host or port: give one such as http://127.0.0.1:8188"
        ) from None
    if parts.scheme.lower() not in SCHEMES:
        raise ServerAddressError(
            f"a server's URL begins with http:// or https://, not with {parts.scheme}://: give one such as "
            "http://127.0.0.1:8188"
        )
    if (
        not parts.hostname
        or not _is_host(parts.hostname)
        or port == 0
        or re.search(r"[\s\x00-\x1f]", parts.netloc)
    ):
        raise ServerAddressError("the server's URL names no host: give one such as http://127.0.0.1:8188")
    return parts


def _is_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def _basic_credentials(value: str) -> list[str]:
    """Return the name and password in a header's value, together and apart; [] for another kind of value."""
    kind, _, encoded = value.partition(" ")
    if kind.lower() != "basic":
        return []
    try:
        plain = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return []
    password = plain.partition(":")[2]
    return [plain, password, quote(password)]


def header_fields(lines: Iterable[str]) -> dict[str, str]:
    """Return {name: value} of texts "Name: value"; empty ones are left out. Raises ServerAddressError."""
    fields = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip()):
            raise ServerAddressError(
                f'header {number} is not of the form "Name: value", such as "Authorization: Bearer ..."'
            )
        if line.strip():
            fields[name.strip()] = value.strip()
    _expect_usable(fields)
    return fields


def _expect_usable(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ServerAddressError("a header's name has characters that HTTP does not allow")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ServerAddressError(
                f"the value of the header {name} has letters that HTTP does not allow"
            ) from None
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ServerAddressError(f"the value of the header {name} has a line break or control character")
