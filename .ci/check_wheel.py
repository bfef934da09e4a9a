"""Check an unpacked wheel: every package imports from it, and every data file of the checkout is in it.

Usage: check_wheel.py FOLDER, into which the wheel was installed without its dependencies.
"""

import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_FOLDERS = (
    *("api", "core_models", "headless", "nodes", "runtime", "training", "weights_manifest"),
    *("workflows", "web", "locales"),
)
PACKAGE = "talking_portrait"


def shipped_files() -> list[str]:
    """Return the files of the checkout, relative to it, that a user needs."""
    found = ["__init__.py", "__main__.py"]
    for folder in SHIPPED_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                found.append(path.relative_to(ROOT).as_posix())
    return found


def packages() -> list[str]:
    """Return the names of all packages of the checkout."""
    folders = [Path(name).parent for name in shipped_files() if name.endswith("__init__.py")]
    return [".".join((PACKAGE, *folder.parts)) for folder in folders]


def main(folder: Path) -> int:
    """Return 0 if the wheel is whole, 1 after saying what is wrong with it."""
    installed = folder / PACKAGE
    problems = [f"not in the wheel: {name}" for name in shipped_files() if not (installed / name).is_file()]
    unwanted = [name for name in ("tests", "benchmarks", "build") if (installed / name).exists()]
    problems += [f"should not be in the wheel: {name}" for name in unwanted]
    os.chdir(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
    for name in packages():
        module = importlib.import_module(name)
        if not Path(module.__file__).is_relative_to(folder):
            problems.append(f"{name} was imported from {module.__file__}")
    sys.stdout.write(
        "\n".join(problems) + "\n" if problems else f"the wheel is whole: {len(shipped_files())} files\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
