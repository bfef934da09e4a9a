"""What was encoded last: kept under all it depends on, and no more of it than fits."""

import pytest
import torch
from talking_portrait.runtime.encoding_memory import EncodingMemory, content_key, encoding_memory


def test_a_result_is_made_once():
    memory, made = EncodingMemory(), []

    def make():
        made.append(1)
        return torch.ones(3)

    assert not memory.known("prompt")
    assert memory.remembered("prompt", make) is memory.remembered("prompt", make)
    assert memory.known("prompt")
    assert len(made) == 1
    memory.remembered("another prompt", make)
    assert len(made) == 2


def test_the_least_recently_used_goes_first():
    memory = EncodingMemory(largest=2 * 12)
    for name in ("first", "second"):
        memory.remembered(name, lambda: torch.zeros(3))
    memory.remembered("first", lambda: pytest.fail("forgotten"))
    memory.remembered("third", lambda: torch.zeros(3))
    assert [memory.known(name) for name in ("first", "second", "third")] == [True, False, True]


def test_one_result_is_kept_however_large():
    memory = EncodingMemory(largest=1)
    memory.remembered("large", lambda: torch.zeros(100))
    assert memory.known("large")
    memory.clear()
    assert not memory.known("large")


def test_what_cannot_be_made_is_not_kept():
    memory = EncodingMemory()

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        memory.remembered("prompt", fail)
    assert not memory.known("prompt")


def test_keys_tell_contents_and_shapes_apart():
    rows = torch.arange(6.0)
    assert content_key(rows) == content_key(rows.clone())
    assert content_key(rows) != content_key(rows.view(2, 3))
    assert content_key(rows) != content_key(rows + 1)
    assert content_key(rows.view(2, 3)) != content_key(rows.view(2, 3).T)


def test_the_process_has_one():
    assert encoding_memory() is encoding_memory()
