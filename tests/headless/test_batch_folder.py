"""A batch's folder: lock, journal, and results that appear whole."""

import json
import os

import pytest
from talking_portrait.headless.batch_folder import (
    DONE,
    JOURNAL_FILE,
    RECORD_FILE,
    UNFINISHED_FOLDER,
    Journal,
    RowRecord,
    open_batch_folder,
    read_record,
)
from talking_portrait.headless.graph import WorkflowError


@pytest.fixture
def folder(tmp_path):
    with open_batch_folder(tmp_path / "out") as opened:
        yield opened


def record(name="anna", key="k1", files=("a.txt",)):
    return RowRecord(name, key, {"seed": "1"}, files, 1.5)


def write_row(folder, content="whole", **fields):
    written = folder.begin(fields.get("name", "anna"), fields.get("key", "k1"))
    (written / "a.txt").write_text(content)
    return folder.finish(written, record(**fields))


def test_a_row_is_in_place_only_when_finished(folder):
    written = folder.begin("anna", "k1")
    (written / "a.txt").write_text("half")
    assert not (folder.path / "anna").exists()
    assert folder.finished("anna", "k1") is None
    target = folder.finish(written, record())
    assert (target / "a.txt").read_text() == "half"
    assert folder.finished("anna", "k1") == record()
    assert read_record(target) == record()


def test_another_key_or_a_missing_file_has_to_run_again(folder):
    target = write_row(folder)
    assert folder.finished("anna", "k2") is None
    (target / "a.txt").unlink()
    assert folder.finished("anna", "k1") is None


def test_a_row_that_runs_again_replaces_what_was_there(folder):
    target = write_row(folder)
    (target / "more.txt").write_text("old")
    write_row(folder, "new", key="k2")
    assert (target / "a.txt").read_text() == "new"
    assert sorted(path.name for path in target.iterdir()) == ["a.txt", RECORD_FILE]
    assert not list(folder.unfinished.iterdir())


def test_what_is_discarded_is_gone(folder):
    written = folder.begin("anna", "k1")
    folder.discard(written)
    assert not written.exists()


def test_states_are_in_the_journal_in_order(folder):
    write_row(folder)
    entries = Journal(folder.path / JOURNAL_FILE).entries()
    assert [(entry["state"], entry["name"], entry["key"]) for entry in entries] == [
        ("started", "anna", "k1"),
        (DONE, "anna", "k1"),
    ]


def test_a_torn_line_is_left_out_and_not_written_to(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"state": "started", "name": "one"})
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"state": "do')
    journal.append({"state": "started", "name": "two"})
    assert [entry["name"] for entry in journal.entries()] == ["one", "two"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"[]\n3\n",
        b"\xff\xfe\n",
        b'{"state": 1}\n',
        b'{"name": [1], "state": "done"}\n',
        b"[" * 99_999,
    ],
)
def test_a_strange_journal_holds_nothing(tmp_path, content):
    (tmp_path / "journal.jsonl").write_bytes(content)
    assert Journal(tmp_path / "journal.jsonl").entries() == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 99_999),
        '{"name": "a", "key": "k", "settings": 3, "files": [], "seconds": 1}',
        '{"name": "a", "key": "k", "settings": {}, "files": [], "seconds": 1' + "0" * 400 + "}",
    ],
)
def test_a_strange_record_is_none(tmp_path, content):
    (tmp_path / RECORD_FILE).write_text(content)
    assert read_record(tmp_path) is None


def test_two_batches_on_one_folder(folder):
    with pytest.raises(WorkflowError, match="another batch is writing"), open_batch_folder(folder.path):
        pass


def test_leftovers_go_and_results_stay(tmp_path):
    with open_batch_folder(tmp_path) as folder:
        target = write_row(folder)
    (tmp_path / UNFINISHED_FOLDER).mkdir()
    (tmp_path / UNFINISHED_FOLDER / "half").write_text("half")
    with open_batch_folder(tmp_path) as folder:
        assert list(folder.unfinished.iterdir()) == []
        assert folder.finished("anna", "k1")
    assert not (tmp_path / UNFINISHED_FOLDER).exists()
    assert target.exists()


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "diary.txt").write_text("mine")
    with open_batch_folder(tmp_path) as folder:
        with pytest.raises(WorkflowError, match="is not of a batch"):
            folder.require_free_name("anna")
        folder.require_free_name("bo")


@pytest.mark.parametrize("name", ["journal.jsonl", "Report.html", "report.jsonl"])
def test_rows_cannot_have_the_names_of_the_batchs_own_files(folder, name):
    with pytest.raises(WorkflowError, match="has a file of that name"):
        folder.require_free_name(name)


def test_a_row_begun_earlier_may_be_replaced_though_its_record_was_not_written(tmp_path):
    with open_batch_folder(tmp_path) as folder:
        folder.begin("anna", "k1")
    (tmp_path / "anna").mkdir()
    with open_batch_folder(tmp_path) as folder:
        folder.require_free_name("anna")


@pytest.mark.parametrize("step", ["replace", "place"])
def test_power_that_fails_while_a_row_is_put_in_place(tmp_path, monkeypatch, step):
    """The row is there whole with the old key or the new one, or has to run again."""
    with open_batch_folder(tmp_path) as folder:
        write_row(folder)
        written = folder.begin("anna", "k2")
        (written / "a.txt").write_text("new")
        renames = []
        rename = os.rename

        def failing(self, target):
            renames.append(target)
            if len(renames) == {"replace": 1, "place": 2}[step]:
                raise KeyboardInterrupt
            rename(self, target)
            return target

        monkeypatch.setattr("pathlib.Path.rename", failing)
        with pytest.raises(KeyboardInterrupt):
            folder.finish(written, record(key="k2"))
        monkeypatch.undo()
    with open_batch_folder(tmp_path) as folder:
        assert folder.finished("anna", "k2") is None
        assert (folder.finished("anna", "k1") is not None) == (step == "replace")
        folder.require_free_name("anna")


def test_a_row_that_cannot_be_put_in_place_leaves_the_earlier_result(folder, monkeypatch):
    target = write_row(folder)
    written = folder.begin("anna", "k2")
    rename = os.rename

    def failing(self, to):
        if self == written:
            raise PermissionError("somebody reads it")
        rename(self, to)

    monkeypatch.setattr("pathlib.Path.rename", failing)
    with pytest.raises(PermissionError):
        folder.finish(written, record(key="k2"))
    assert folder.finished("anna", "k1") == record()
    assert (target / "a.txt").read_text() == "whole"


def test_the_record_is_readable(folder):
    content = json.loads((write_row(folder) / RECORD_FILE).read_text())
    assert content == {
        "name": "anna",
        "key": "k1",
        "settings": {"seed": "1"},
        "files": ["a.txt"],
        "seconds": 1.5,
    }
