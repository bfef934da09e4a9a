"""`python -m talking_portrait ...`, or `python <checkout> ...` without installing."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def register_checkout() -> None:
    """Make `import talking_portrait` mean this checkout, whatever its directory is called."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "talking_portrait", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["talking_portrait"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if not __package__:
        register_checkout()
    from talking_portrait.headless.command_line import console

    console()
