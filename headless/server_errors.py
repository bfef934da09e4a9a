"""What can go wrong with a ComfyUI server: it cannot be asked, it refuses a workflow, a run fails there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import WorkflowError


class ServerAddressError(WorkflowError):
    """A URL or header that cannot be used. Its text names no credentials."""


class ServerUnreachableError(ConnectionError):
    """A server that is down, does not answer in time, or does not answer as ComfyUI does."""


class ServerRunError(RuntimeError):
    """A run that failed or was stopped on the server.

    data: of ComfyUI's event execution_error (node_id, node_type, exception_type, exception_message, traceback,
    ...); {} when no node failed.
    """

    def __init__(self, message: str, data: Mapping[str, Any] | None = None) -> None:
        self.data = dict(data or {})
        super().__init__(message)


class WorkflowRefusedError(ServerRunError, WorkflowError):
    """A workflow that the server will not run, or not wholly.

    error, node_errors: as ComfyUI answers them.
    """

    def __init__(
        self, message: str, error: Mapping[str, Any] | None, node_errors: Mapping[str, Any] | None
    ) -> None:
        self.error, self.node_errors = dict(error or {}), dict(node_errors or {})
        super().__init__(message)
