"""Columns, graphs, digests and models of a batch's rows."""

import copy
import json
from pathlib import Path

import pytest
from PIL import Image
from talking_portrait.headless.batch_files import named_files
from talking_portrait.headless.batch_jobs import JobListError, JobRow
from talking_portrait.headless.batch_workflow import BatchWorkflow, models_in
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.registry import local_definitions, object_info
from talking_portrait.headless.workflow_files import workflow_from_object
from talking_portrait.runtime.host import StandaloneHost, host

GRAPH = {
    "1": {
        "class_type": "LoadImage",
        "inputs": {"image": "face.png"},
        "_meta": {"title": "Portrait no. 1 = first"},
    },
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "bicubic", "scale_by": 2.0},
        "_meta": {"title": "Grow"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b"}},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with pictures in input/ and beside the list; the current folder."""
    for place in ("input", "list"):
        (tmp_path / place).mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "input" / "face.png")
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "list" / "other.png")
    monkeypatch.chdir(tmp_path)
    assert isinstance(host(), StandaloneHost)
    return tmp_path


@pytest.fixture
def workflow(folder):
    """Make a batch's workflow of the graph above, or of another."""

    def make(assignments=(), graph=GRAPH):
        return BatchWorkflow(
            workflow_from_object(copy.deepcopy(graph)),
            assignments,
            beside=folder / "list",
            input_folder=folder / "input",
        )

    return make


def row(name="one", typed=False, **settings):
    return JobRow(1, 2, name, {key.replace("__", "."): value for key, value in settings.items()}, typed)


def only_job(workflow, settings, name="one", typed=False):
    return workflow.jobs([JobRow(1, 2, name, settings, typed)])[0]


@pytest.mark.parametrize("column", ["scale_by", "2.scale_by", "Grow.scale_by", "ImageScaleBy.scale_by"])
def test_columns_name_inputs(workflow, column):
    batch = workflow()
    job = only_job(batch, {column: "0.5"})
    assert job.problem is None
    assert batch.prepared(job).graph["2"]["inputs"]["scale_by"] == 0.5


def test_a_title_may_hold_dots_and_equals_signs(workflow):
    batch = workflow(["Portrait no. 1 = first.image=face.png"])
    job = only_job(batch, {"Portrait no. 1 = first.image": "other.png"})
    assert job.problem is None
    assert Path(batch.prepared(job).graph["1"]["inputs"]["image"]).name == "other.png"


def test_a_bare_name_means_inputs_with_values_not_links(workflow):
    assert only_job(workflow(), {"image": "face.png"}).settings == {("1", "image"): "face.png"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "filename_prefix",
            r"2 nodes have an input 'filename_prefix': call the column one of 3\.filename_prefix",
        ),
        (
            "colour",
            "the column 'colour' sets no input of the workflow; columns may be image, upscale_method, scale_by",
        ),
        ("Grow.colour", "has no input 'colour'"),
        ("Nobody.seed", "no node 'Nobody'"),
    ],
)
def test_columns_that_name_none(workflow, column, message):
    with pytest.raises(JobListError, match=message):
        only_job(workflow(), {column: "1"})


def test_two_columns_for_one_input(workflow):
    with pytest.raises(JobListError, match=r"'scale_by' and '2.scale_by' set the same input"):
        only_job(workflow(), {"scale_by": "1", "2.scale_by": "2"})


def test_a_row_wins_over_what_all_rows_share(workflow):
    batch = workflow(["Grow.scale_by=3", "3.filename_prefix=all"])
    for typed, value in ((False, "0.5"), (True, 0.5)):
        inputs = batch.prepared(only_job(batch, {"scale_by": value}, typed=typed)).graph
        assert inputs["2"]["inputs"]["scale_by"] == 0.5
        assert inputs["3"]["inputs"]["filename_prefix"] == "all"


def test_a_bad_setting_for_all_rows_is_refused_at_once(workflow):
    with pytest.raises(WorkflowError, match="no node 'Shrink'"):
        workflow(["Shrink.scale_by=3"])


def test_files_beside_the_list_are_found_and_may_be_read(workflow, folder):
    batch = workflow()
    job = only_job(batch, {"image": "other.png"})
    assert job.problem is None
    prepared = batch.prepared(job)
    assert prepared.graph["1"]["inputs"]["image"] == str(folder / "list" / "other.png")
    assert folder / "list" / "other.png" in {Path(file) for file in prepared.files}


@pytest.mark.parametrize(
    ("settings", "typed", "message"),
    [
        ({"image": "nobody.png"}, False, "nobody.png"),
        ({"image": "~nobody of this name/face.png"}, False, "nobody of this name"),
        ({"image": "a\0b.png"}, True, "image"),
        ({"scale_by": "much"}, False, "scale_by"),
        ({"scale_by": 1000.0}, True, "scale_by"),
        ({"scale_by": [1, 2, 3]}, True, "scale_by"),
        ({"upscale_method": "magic"}, True, "upscale_method"),
    ],
)
def test_a_row_that_cannot_run_says_why(workflow, settings, typed, message):
    good = JobRow(
        2, 3, "two", {next(iter(settings)): {"image": "face.png"}.get(next(iter(settings)), 1.0)}, True
    )
    jobs = workflow().jobs([JobRow(1, 2, "one", settings, typed), good])
    assert message in jobs[0].problem


class TestDigest:
    def key(self, workflow, settings, **more):
        return only_job(workflow, settings, **more).key

    def test_same_row_same_key(self, workflow):
        assert self.key(workflow(), {"scale_by": "2"}) == self.key(workflow(), {"scale_by": "2"})

    def test_texts_and_numbers_that_mean_the_same_are_the_same(self, workflow):
        text = self.key(workflow(), {"scale_by": "0.5"})
        assert text == self.key(workflow(), {"Grow.scale_by": 0.5}, typed=True)

    def test_what_changes_the_result_or_its_place_changes_it(self, workflow):
        changed = copy.deepcopy(GRAPH)
        changed["3"]["inputs"]["filename_prefix"] = "c"
        keys = [
            self.key(workflow(), {"scale_by": "2"}),
            self.key(workflow(), {"scale_by": "3"}),
            self.key(workflow(), {"scale_by": "2"}, name="two"),
            self.key(workflow(["4.filename_prefix=x"]), {"scale_by": "2"}),
            self.key(workflow(graph=changed), {"scale_by": "2"}),
        ]
        assert len(set(keys)) == len(keys)

    def test_titles_do_not_count(self, workflow):
        renamed = copy.deepcopy(GRAPH)
        renamed["2"]["_meta"]["title"] = "Shrink"
        assert self.key(workflow(graph=renamed), {"scale_by": "2"}) == self.key(workflow(), {"scale_by": "2"})

    def test_contents_of_files_count_and_their_places_do_not(self, workflow, folder):
        before = self.key(workflow(), {"image": "other.png"})
        (folder / "list" / "other.png").rename(folder / "list" / "moved.png")
        assert self.key(workflow(), {"image": "moved.png"}) == before
        Image.new("RGB", (8, 6), "green").save(folder / "list" / "moved.png")
        assert self.key(workflow(), {"image": "moved.png"}) != before

    def test_landmarks_beside_a_picture_count(self, workflow, folder):
        before = self.key(workflow(), {"image": "other.png"})
        (folder / "list" / "other.landmarks.json").write_text("{}")
        assert self.key(workflow(), {"image": "other.png"}) != before


def test_models_are_loaders_without_files_of_the_user():
    graph = json.loads(
        Path(__file__).parents[2].joinpath("workflows/api/combined.json").read_text(encoding="utf-8")
    )
    definitions = local_definitions()
    models = models_in(graph, definitions)
    assert models
    graph["7"]["inputs"]["seed"] = 5
    graph["2"]["inputs"]["audio"] = "else.wav"
    assert models_in(graph, definitions) == models
    graph["6"]["inputs"]["precision"] = "float16"
    assert len(models_in(graph, definitions) & models) == len(models) - 1


def test_a_portable_graph_names_files_of_its_own_input_folder(workflow, folder):
    (folder / "list" / "deep").mkdir()
    Image.new("RGB", (8, 6), "green").save(folder / "list" / "deep" / "other.png")
    (folder / "list" / "other.landmarks.json").write_text("{}")
    graph = copy.deepcopy(GRAPH) | {
        "5": {"class_type": "LoadImage", "inputs": {"image": "face.png"}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "c"}},
        "7": {"class_type": "LoadImage", "inputs": {"image": "face.png"}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "d"}},
    }
    batch = workflow(graph=graph)
    prepared = batch.prepared(only_job(batch, {"1.image": "other.png", "5.image": "deep/other.png"}))
    portable, files = batch.portable(prepared)
    names = {node: portable.graph[node]["inputs"]["image"] for node in "157"}
    assert names == {"1": "other.png", "5": "2/other.png", "7": "face.png"}
    assert files == {
        "other.png": folder / "list" / "other.png",
        "other.landmarks.json": folder / "list" / "other.landmarks.json",
        "2/other.png": folder / "list" / "deep" / "other.png",
        "face.png": folder / "input" / "face.png",
    }
    assert not portable.files
    assert str(folder) not in json.dumps([portable.graph, portable.page])


def test_demos_and_texts_are_no_files(workflow, folder):
    batch = workflow(
        graph={
            "1": {"class_type": "TP_LoadSpeech", "inputs": {"audio": "demo: speech"}},
            **{"2": {"class_type": "PreviewAudio", "inputs": {"audio": ["1", 0]}}},
        }
    )
    job = only_job(batch, {"audio": "demo: speech"})
    assert job.problem is None
    assert named_files(batch.prepared(job), local_definitions()) == {}


def test_rows_for_a_server_are_checked_there(folder):
    graph = copy.deepcopy(GRAPH)
    graph["2"]["class_type"] = "OnlyThere"
    classes = {**object_info(), "OnlyThere": {**object_info()["ImageScaleBy"], "display_name": "Only There"}}
    batch = BatchWorkflow(workflow_from_object(graph), server_classes=classes)
    job = only_job(batch, {"scale_by": "100000", "image": "of the server.png"})
    assert job.problem is None
    assert job.key
