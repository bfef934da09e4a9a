"""Let the tests import `talking_portrait` from a plain checkout as well as from an installed one."""

import importlib.util
import os
import sys
from pathlib import Path

# Threads of several processes that wait for each other spin and stand still.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent

if importlib.util.find_spec("talking_portrait") is None:
    spec = importlib.util.spec_from_file_location(
        "talking_portrait", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["talking_portrait"] = module
    spec.loader.exec_module(module)
