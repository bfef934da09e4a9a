"""docs/python.md: its code runs as written, prints what the guide says, and makes the guide's pictures."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.core_models.face.picture import load_picture

ROOT = Path(__file__).resolve().parent.parent
CLOSE_PICTURES = 4.0
"""Mean difference of 8-bit values that JPEG, other processors and other versions of torch may make."""


@pytest.fixture(scope="module")
def maker():
    """The script that writes the guide."""
    spec = importlib.util.spec_from_file_location("make_python_guide", ROOT / "docs" / "make_python_guide.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def guide(maker):
    return maker.GUIDE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(maker, guide, shared_data, tmp_path_factory):
    """The folder in which all of the guide ran once, and what its blocks printed."""
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TALKING_PORTRAIT_MODELS", str(shared_data))
        return folder, maker.run_guide(guide, folder)


def test_what_the_code_prints_is_in_the_guide(maker, guide, run):
    _, printed = run
    blocks = maker.blocks_of(guide)
    assert {number: blocks[number].printed for number in printed} == printed
    assert maker.with_printed(guide, printed) == guide
    unmarked = {number for number, block in enumerate(blocks) if block.needs is None}
    assert unmarked <= set(printed), "what needs nothing runs everywhere"


def test_the_pictures_are_those_of_the_run(run):
    folder, _ = run
    made = sorted(folder.glob("pictures/*.jpg"))
    assert len(made) >= 3
    for picture in made:
        shown = load_picture(ROOT / "docs" / "pictures" / picture.name).astype(float)
        assert np.abs(shown - load_picture(picture)).mean() < CLOSE_PICTURES, picture.name


def test_every_picture_of_the_guide_is_made_by_it(guide):
    named = {line.partition("](pictures/")[2].rstrip(")") for line in guide.splitlines() if line[:2] == "!["}
    made = {path.name for path in (ROOT / "docs" / "pictures").glob("python_*.jpg")}
    assert named == made


def test_the_first_block_is_ten_lines(maker, guide):
    first = maker.blocks_of(guide)[0]
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 10


def test_code_of_other_kinds_is_left_alone(maker):
    text = "```bash\nls\n```\n\n```python needs=kdtalker\nx = 1\n```\n\n```python\nprint(2)\n```\n\n```text\nold\n```\n"
    first, second = maker.blocks_of(text)
    assert (first.code, first.needs, second.printed) == ("x = 1\n", "kdtalker", "old\n")
    assert maker.with_printed(text, {1: "2\n"}) == text.replace("old", "2")
    assert maker.with_printed(text, {1: ""}).endswith("print(2)\n```\n")
