"""The peak memory of a script run in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

MEGABYTE = 1024  # ru_maxrss counts kilobytes on Linux


def peak_megabytes(script: str, *arguments: str) -> float:
    """Return the peak resident memory in MB of a Python script; of several, the largest one so far."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, script, *arguments], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak == before:
        sys.stderr.write("the peak is an earlier child's: this one needed no more\n")
    return peak / MEGABYTE
