"""The package as a whole: who imports whom, what loading it costs, and what is shipped."""

import ast
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = ("api", "core_models", "headless", "nodes", "runtime", "training", "weights_manifest")
SOURCES = sorted(path for block in BLOCKS for path in (ROOT / block).rglob("*.py"))
ALL_SOURCES = [ROOT / "__init__.py", ROOT / "__main__.py", *SOURCES]

MAY_IMPORT = {
    "api": {"runtime", "core_models"},
    "core_models": set(),
    "weights_manifest": set(),
    "runtime": {"core_models", "weights_manifest"},
    "nodes": {"runtime", "core_models"},
    "headless": {"nodes", "runtime", "core_models", "weights_manifest", "training"},
    "training": {"core_models"},
}
"""The arrows of the design. headless starts the training commands and lists the manifest."""

HOST_MODULES = {"comfy", "folder_paths", "comfy_api", "comfy_execution", "nodes", "server", "execution"}
HEAVY = (
    "torch",
    "cv2",
    "av",
    "transformers",
    "ai_edge_litert",
    "skimage",
    "scipy",
    "soxr",
    "PIL",
    "safetensors",
)
LONGEST_FILE = 500


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imported_blocks(path):
    """Yield (line, block) for every import of another part of the package."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module or "").split("."))
            names = [target[0]] if target[0] else [alias.name for alias in node.names]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_run_one_way(path):
    block = path.relative_to(ROOT).parts[0]
    wrong = [
        f"line {line}: {block} imports {other}"
        for line, other in imported_blocks(path)
        if other != block and other not in MAY_IMPORT[block]
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_own_modules_are_imported_relatively_and_the_host_never(path):
    """Absolute imports of the package fail in ComfyUI; those of ComfyUI fail everywhere else."""
    for node in ast.walk(parsed(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        roots = {name.split(".")[0] for name in names}
        assert not roots & ({"talking_portrait"} | HOST_MODULES), (
            f"line {getattr(node, 'lineno', 0)}: {roots}"
        )


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_no_prints_no_asserts_no_bare_excepts(path):
    for node in ast.walk(parsed(path)):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not is_print, f"print in line {node.lineno}"
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        assert not bare, f"bare except in line {node.lineno}"


def functions(path):
    return [
        node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_are_short(record_property):
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{relative(path)}:{node.name}")
        for path in ALL_SOURCES
        for node in functions(path)
    ]
    median = statistics.median(length for length, _ in lengths)
    record_property("median function length", median)
    record_property("longest functions", sorted(lengths)[-10:])
    assert median <= 12


def test_files_are_not_too_long(record_property):
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_SOURCES}
    record_property("longest files", sorted(lengths.items(), key=lambda item: item[1])[-10:])
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_functions_and_modules_are_documented(path):
    tree = parsed(path)
    assert ast.get_docstring(tree) or path.name == "__init__.py", "the module has no docstring"
    if path.is_relative_to(ROOT / "nodes"):
        return  # a node's inputs and outputs carry tooltips instead
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_every_package_is_listed():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        ".".join(("talking_portrait", *path.parent.relative_to(ROOT).parts))
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert set(settings["tool"]["setuptools"]["packages"]) == found | {"talking_portrait"}
    folders_with_code = {path.parent for path in SOURCES}
    assert {folder for folder in folders_with_code if not (folder / "__init__.py").is_file()} == set()


def test_requirements_agree_with_the_package():
    """ComfyUI Manager's list: the same lower bounds, nothing pinned, nothing of the host's own."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {*project["dependencies"], *project["optional-dependencies"]["demo"]}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    assert wanted <= known
    of_the_host = {"torch", "numpy", "safetensors", "pillow", "tqdm"}
    assert {line.split(">")[0] for line in known - wanted} == of_the_host


IMPORT_REPORT = """
import importlib.util, json, sys, time
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(folder.replace(".", "_x_"), folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
before = set(sys.modules)
spec.loader.exec_module(module)
loaded = set(sys.modules) - before
report = {"nodes": len(module.NODE_CLASS_MAPPINGS), "loaded": sorted(loaded), "package": module.__package__}
sys.stdout.write(json.dumps(report))
"""


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_loading_the_pack_as_comfyui_does_is_light_and_writes_nothing(tmp_path):
    """A copy in a folder with a hyphen, loaded under a path for a name."""
    pack = tmp_path / "custom_nodes" / "ComfyUI-TalkingPortrait"
    ignored = shutil.ignore_patterns(".*", "tests", "build", "*.safetensors", "__pycache__")
    shutil.copytree(ROOT, pack, ignore=ignored)
    before = files_in(tmp_path)
    result = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_REPORT, str(pack)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["nodes"] >= 20
    assert report["package"] == str(pack)
    assert [name for name in report["loaded"] if name.split(".")[0] in HEAVY] == []
    assert [name for name in report["loaded"] if name.startswith("talking_portrait")] == []
    assert files_in(tmp_path) == before


def test_one_package_for_pytest_and_for_users():
    import talking_portrait

    assert Path(talking_portrait.__file__).resolve().parent == ROOT
    assert importlib.util.find_spec("utils") is None or not str(
        importlib.util.find_spec("utils").origin
    ).startswith(str(ROOT))


def test_command_line_is_light():
    """Asking for help loads nothing heavy."""
    code = "import sys; from talking_portrait.headless.command_line import build_parser; build_parser().format_help()"
    code += f"; sys.exit(', '.join(set(sys.modules) & set({HEAVY})) or 0)"
    start = f"import runpy, sys; m = runpy.run_path({str(ROOT / '__main__.py')!r}); m['register_checkout'](); {code}"
    result = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
