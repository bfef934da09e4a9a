"""A workflow file made ready to run: which form runs, settings from text and JSON, the page that saved files carry."""

import copy
import json
from pathlib import Path

import pytest
from talking_portrait.headless.graph import RUNNER_LACKS, UnknownNodesError, WorkflowError
from talking_portrait.headless.overrides import OverrideError, read_inputs_file
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.workflow_files import WorkflowFile, WorkflowFileError

GOLDEN = json.loads((Path(__file__).parent / "conversion_golden.json").read_text())
SERVER = {
    name: {**info, "output": ["IMAGE"], "output_name": ["IMAGE"]}
    for name, info in GOLDEN["object_info"].items()
}


def page_file(name, **more):
    return WorkflowFile(Path("w.json"), page=copy.deepcopy(GOLDEN["graphs"][name]["workflow"]), **more)


def api_file(**nodes):
    return WorkflowFile(Path("w.json"), api=nodes)


def load_image(name="a.png", **meta):
    return {"class_type": "LoadImage", "inputs": {"image": name}, **({"_meta": meta} if meta else {})}


class TestForms:
    def test_a_page_is_converted_and_kept(self):
        file = page_file("reroute")
        prepared = prepared_workflow(file, object_info=SERVER)
        assert {i: node["inputs"] for i, node in prepared.graph.items()} == {
            i: node["inputs"] for i, node in GOLDEN["graphs"]["reroute"]["prompt"].items()
        }
        assert prepared.page == file.page
        assert prepared.files == frozenset()

    def test_a_graph_is_drawn(self):
        prepared = prepared_workflow(api_file(**{"1": load_image(), "2": load_image()}))
        assert [node["type"] for node in prepared.page["nodes"]] == ["LoadImage", "LoadImage"]

    def test_with_both_the_graph_runs_and_the_page_is_shown(self):
        prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 7}}}
        file = page_file("reroute", api=prompt)
        prepared = prepared_workflow(file, object_info={**SERVER, "EmptyImage": SERVER["EmptyImage"]})
        assert prepared.graph == prompt
        assert prepared.page == file.page

    def test_a_broken_page_beside_a_graph_does_not_matter(self):
        file = WorkflowFile(Path("w"), api={"1": load_image()}, page={"nodes": [{"id": []}]})
        assert prepared_workflow(file).page["nodes"][0]["type"] == "LoadImage"
        with pytest.raises(WorkflowError, match="lacks an id or a type"):
            prepared_workflow(WorkflowFile(Path("w"), page={"nodes": [{"id": []}]}))

    def test_the_file_is_not_changed(self):
        file = api_file(**{"1": load_image()})
        prepared_workflow(file, ["1.image=b.png"])
        assert file.api["1"]["inputs"]["image"] == "a.png"

    def test_links_whose_node_is_a_number(self):
        saved = {"class_type": "SaveImage", "inputs": {"images": [1, 0], "filename_prefix": "x"}}
        assert prepared_workflow(api_file(**{"1": load_image(), "2": saved})).graph["2"]["inputs"][
            "images"
        ] == [
            "1",
            0,
        ]


class TestUnknownNodes:
    def test_all_are_named_with_the_packs_that_the_file_tells(self):
        page = {
            "nodes": [
                {"id": 1, "type": "Fancy", "properties": {"cnr_id": "comfyui-fancy", "ver": "1.2.0"}},
                {"id": 2, "type": "Fancy", "properties": {"cnr_id": "comfyui-fancy", "ver": "1.2.0"}},
                {"id": 3, "type": "Other", "properties": {"aux_id": "someone/pack"}},
                {"id": 4, "type": "Plain", "properties": None},
            ]
        }
        expected = (
            r"Fancy \(nodes 1, 2; from comfyui-fancy 1\.2\.0\), Other \(node 3; from someone/pack\), "
            r"Plain \(node 4\); the runner brings"
        )
        with pytest.raises(UnknownNodesError, match=expected) as caught:
            prepared_workflow(WorkflowFile(Path("w"), page=page))
        assert caught.value.unknown == {"1": "Fancy", "2": "Fancy", "3": "Other", "4": "Plain"}
        graph = {"1": {"class_type": "Fancy", "inputs": {}}}
        with pytest.raises(UnknownNodesError, match=r"from comfyui-fancy 1\.2\.0"):
            prepared_workflow(WorkflowFile(Path("w"), api=graph, page=page))

    def test_those_that_a_server_lacks(self):
        with pytest.raises(UnknownNodesError, match="the server does not have them") as caught:
            prepared_workflow(api_file(**{"1": {"class_type": "Fancy"}}), object_info=SERVER)
        assert RUNNER_LACKS not in str(caught.value)


class TestSettings:
    def test_assignments_win_over_inputs(self):
        file = api_file(**{"1": load_image(title="Face")})
        both = prepared_workflow(file, ["Face.image=set.png"], {"Face.image": "inputs.png"})
        assert both.graph["1"]["inputs"]["image"] == "set.png"
        only = prepared_workflow(file, (), {"Face": {"image": "inputs.png"}})
        assert only.graph["1"]["inputs"]["image"] == "inputs.png"

    def test_a_node_is_found_by_what_the_page_calls_it(self):
        prepared = prepared_workflow(api_file(**{"1": load_image()}), ["Load Image.image=b.png"])
        assert prepared.graph["1"]["inputs"]["image"] == "b.png"

    def test_a_title_of_its_own_hides_that_of_the_class(self):
        file = api_file(**{"1": load_image(), "2": load_image(title="Driving")})
        assert prepared_workflow(file, ["Load Image.image=b"]).graph["1"]["inputs"]["image"] == "b"
        with pytest.raises(OverrideError, match="2 nodes are called 'LoadImage': use an id, 1, 2"):
            prepared_workflow(file, ["LoadImage.image=b"])

    def test_files_that_settings_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("face.jpg", "face.landmarks.json", "real.jpg"):
            Path(name).touch()
        Path("link.jpg").symlink_to("real.jpg")
        file = api_file(**{"1": load_image(), "2": load_image()})
        prepared = prepared_workflow(file, ["1.image=face.jpg"], {"2.image": "link.jpg"})
        assert prepared.graph["1"]["inputs"]["image"] == str(tmp_path / "face.jpg")
        assert prepared.graph["2"]["inputs"]["image"] == str(tmp_path / "link.jpg")
        whole = tmp_path.resolve()
        expected = {whole / "face.jpg", whole / "face.landmarks.json", whole / "real.jpg"}
        assert prepared.files == expected

    def test_files_of_the_workflow_itself_are_not_among_them(self, tmp_path):
        (tmp_path / "face.jpg").touch()
        file = api_file(**{"1": load_image(str(tmp_path / "face.jpg"))})
        assert prepared_workflow(file).files == frozenset()

    def test_file_of_inputs(self, tmp_path):
        path = tmp_path / "inputs.json"
        path.write_text('{"1.image": "x.png"}')
        assert read_inputs_file(path) == {"1.image": "x.png"}
        for text, message in [("{", "is not JSON"), ("[]", "expected a JSON object"), ("\xff", "not JSON")]:
            path.write_text(text, encoding="latin-1")
            with pytest.raises(OverrideError, match=message):
                read_inputs_file(path)
        with pytest.raises(OverrideError, match="cannot be read"):
            read_inputs_file(tmp_path / "none.json")
        with path.open("wb") as file:
            file.truncate(6_000_000)
        with pytest.raises(OverrideError, match="larger than 5 MB"):
            read_inputs_file(path)


class TestPageAfterSettings:
    def widget(self, page, node_id):
        return next(node["widgets_values"] for node in page["nodes"] if node["id"] == node_id)

    def test_only_the_widget_changes(self):
        file = page_file("reroute")
        file.page["extra"] = {"kept": True}
        prepared = prepared_workflow(file, ["1.width=64"], object_info=SERVER)
        assert self.widget(prepared.page, 1)[0] == 64
        self.widget(prepared.page, 1)[0] = self.widget(file.page, 1)[0]
        assert prepared.page == file.page

    def test_a_value_inside_a_subgraph_is_drawn_without_it(self):
        file = page_file("subgraph_nested")
        graph = prepared_workflow(file, object_info=SERVER).graph
        inner = next(i for i, node in graph.items() if node["class_type"] == "EmptyImage")
        assert ":" in inner
        prepared = prepared_workflow(file, (), {f"{inner}.width": 24}, object_info=SERVER)
        assert prepared.graph[inner]["inputs"]["width"] == 24
        assert "definitions" in file.page
        assert "definitions" not in prepared.page
        assert 24 in [
            node["widgets_values"][0] for node in prepared.page["nodes"] if node["type"] == "EmptyImage"
        ]

    def test_a_link_that_is_replaced_is_gone_from_the_page(self):
        file = page_file("reroute")
        prepared = prepared_workflow(file, ['4.images=["2", 0]'], object_info=SERVER)
        assert prepared.graph["4"]["inputs"]["images"] == ["2", 0]
        assert "Reroute" not in [node["type"] for node in prepared.page["nodes"]]


def test_errors_are_of_one_family():
    for error in (OverrideError, UnknownNodesError, WorkflowFileError):
        assert issubclass(error, WorkflowError)
