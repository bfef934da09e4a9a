"""Files that hold a workflow: JSON in both forms, pictures, videos and sounds that carry one, and what is none."""

import io
import json
import os
import subprocess
import threading
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from talking_portrait.headless import workflow_files
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.media_tags import MediaTagError, media_tags
from talking_portrait.headless.workflow_files import (
    LARGEST_WORKFLOW,
    WorkflowFileError,
    read_workflow_file,
    workflow_from_bytes,
    workflow_from_object,
    workflow_from_stream,
)

GRAPH = {"1": {"class_type": "Text", "inputs": {"text": "grüß"}}}
PAGE = {"nodes": [{"id": 1, "type": "Text"}], "links": [], "version": 0.4}
TAGS = {"prompt": json.dumps(GRAPH), "workflow": json.dumps(PAGE)}


def read_text(tmp_path, text, name="w.json"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_workflow_file(path)


class TestJson:
    def test_each_form(self, tmp_path):
        api = read_text(tmp_path, json.dumps(GRAPH))
        assert (api.api, api.page, api.source.name) == (GRAPH, None, "w.json")
        page = read_text(tmp_path, json.dumps(PAGE))
        assert (page.api, page.page) == (None, PAGE)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_encodings_that_editors_write(self, tmp_path, encoding):
        text = json.dumps(GRAPH, ensure_ascii=False).encode(encoding)
        assert read_text(tmp_path, text).api == GRAPH

    def test_a_request_to_a_server_has_both_forms(self):
        request = {"prompt": GRAPH, "client_id": "x", "extra_data": {"extra_pnginfo": {"workflow": PAGE}}}
        found = workflow_from_object(request)
        assert (found.api, found.page) == (GRAPH, PAGE)
        assert workflow_from_object({"prompt": GRAPH}).page is None

    def test_what_old_runners_wrote_into_graphs_is_left_out(self):
        text = b'{"1": {"class_type": "Text", "inputs": {"size": NaN}, "is_changed": [NaN]}}'
        node = workflow_from_bytes(text).api["1"]
        assert set(node) == {"class_type", "inputs"}
        assert node["inputs"]["size"] != node["inputs"]["size"]

    def test_a_stream(self):
        assert workflow_from_stream(io.BytesIO(json.dumps(GRAPH).encode())).source == Path("-")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "it is empty"),
            ("  \n", "it is empty"),
            ("{", "not JSON, or is cut off"),
            (json.dumps(PAGE)[:-9], "not JSON, or is cut off"),
            ("[]", "expected a JSON object"),
            ("7", "expected a JSON object"),
            ("{}", "an empty JSON object"),
            ('{"nodes": []}', "has no nodes"),
            ('{"a": 1}', "expected a JSON object with nodes"),
            ('{"1": {"inputs": {}}}', "expected a JSON object with nodes"),
            ("[" * 100_000, "nested more than 100 deep"),
            ('{"nodes": ' + "[" * 200 + "]" * 200 + "}", "nested more than 100 deep"),
            ('{"1": {"class_type": "a", "inputs": {"x": ' + "9" * 5000 + "}}}", "not JSON"),
            ('{"1": {"class_type": "a", "inputs": {"x": "\\ud800"}}}', "half a character"),
            (b"\x00\x01\x02", "not JSON"),
            (b'{"a": "\xff"}', "neither JSON nor one of the files"),
        ],
    )
    def test_what_is_no_workflow(self, tmp_path, text, message):
        with pytest.raises(WorkflowFileError, match=message) as caught:
            read_text(tmp_path, text)
        assert isinstance(caught.value, WorkflowError)

    def test_fifty_megabytes_are_refused_before_they_are_parsed(self, tmp_path, monkeypatch):
        path = tmp_path / "large.json"
        with path.open("wb") as file:
            file.truncate(50_000_000)
        monkeypatch.setattr(workflow_files.json, "loads", lambda _: pytest.fail("was parsed"))
        with pytest.raises(WorkflowFileError, match="more than 20 MB"):
            read_workflow_file(path)

    def test_too_many_nodes(self):
        with pytest.raises(WorkflowFileError, match="5001 nodes, at most 5000"):
            workflow_from_object({str(i): {"class_type": "a"} for i in range(5001)})

    def test_files_that_are_not_there(self, tmp_path):
        with pytest.raises(WorkflowFileError, match="there is no workflow file"):
            read_workflow_file(tmp_path / "none.json")
        with pytest.raises(WorkflowFileError, match="is a folder"):
            read_workflow_file(tmp_path)
        with pytest.raises(WorkflowFileError):
            read_workflow_file("a\0b.json")
        with pytest.raises(WorkflowFileError, match="no workflow file"):
            read_workflow_file("/dev/zero")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_that_a_shell_names(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        text = json.dumps(GRAPH).encode()
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[text])
        writer.start()
        assert read_workflow_file(tmp_path / "pipe").api == GRAPH
        writer.join()


def save_png(path, tags, compressed=False):
    info = PngImagePlugin.PngInfo()
    for key, text in tags.items():
        info.add_text(key, text, zip=compressed)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


def save_webp(path, tags):
    exif = Image.Exif()
    for tag, (key, text) in zip((0x0110, 0x010F), tags.items(), strict=False):
        exif[tag] = f"{key}:{text}"
    Image.new("RGB", (8, 8)).save(path, exif=exif)


def save_video(path, tags, codec="mpeg4"):
    options = {"movflags": "use_metadata_tags"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


def save_sound(path, tags, codec):
    with av.open(str(path), "w") as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(stream.format.name, "mono", 48000, stream.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            for packet in stream.encode(part):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


SAVERS = {
    "a.png": save_png,
    "a.webp": save_webp,
    "a.mp4": save_video,
    "a.mov": save_video,
    "a.mkv": save_video,
    "a.webm": lambda path, tags: save_video(path, tags, "libvpx-vp9"),
    "a.flac": lambda path, tags: save_sound(path, tags, "flac"),
    "a.ogg": lambda path, tags: save_sound(path, tags, "libopus"),
    "a.mp3": lambda path, tags: save_sound(path, tags, "libmp3lame"),
}


class TestCarriedWorkflows:
    @pytest.mark.parametrize("name", SAVERS)
    def test_both_forms_come_back(self, tmp_path, name):
        SAVERS[name](tmp_path / name, TAGS)
        found = read_workflow_file(tmp_path / name)
        assert (found.api, found.page) == (GRAPH, PAGE)

    @pytest.mark.parametrize("name", SAVERS)
    def test_without_a_workflow(self, tmp_path, name):
        SAVERS[name](tmp_path / name, {})
        with pytest.raises(WorkflowFileError, match="carries no workflow"):
            read_workflow_file(tmp_path / name)

    def test_the_name_does_not_matter(self, tmp_path):
        save_png(tmp_path / "a.png", TAGS)
        assert read_workflow_file((tmp_path / "a.png").rename(tmp_path / "a.json")).api == GRAPH

    def test_one_form_is_enough(self, tmp_path):
        save_png(tmp_path / "a.png", {"workflow": TAGS["workflow"], "prompt": "{}"})
        assert read_workflow_file(tmp_path / "a.png").api is None

    def test_a_prompt_in_words_beside_a_workflow(self, tmp_path):
        save_png(tmp_path / "a.png", {"workflow": TAGS["workflow"], "prompt": "a cat"})
        assert read_workflow_file(tmp_path / "a.png").page == PAGE

    def test_pictures_of_other_software_are_told(self, tmp_path):
        save_png(tmp_path / "a.png", {"parameters": "a cat, Steps: 20"})
        with pytest.raises(WorkflowFileError, match="it has parameters, of other software"):
            read_workflow_file(tmp_path / "a.png")
        save_png(tmp_path / "b.png", {"prompt": "a cat"})
        with pytest.raises(
            WorkflowFileError, match=r"the prompt in .*b\.png is not a workflow: it is not JSON"
        ):
            read_workflow_file(tmp_path / "b.png")

    def test_compressed_and_international_texts(self, tmp_path):
        save_png(tmp_path / "a.png", TAGS, compressed=True)
        assert read_workflow_file(tmp_path / "a.png").api == GRAPH
        text = json.dumps({"1": {"class_type": "Text", "inputs": {"text": "語"}}}, ensure_ascii=False)
        save_png(tmp_path / "b.png", {"prompt": text})  # iTXt, as it is not latin-1
        assert read_workflow_file(tmp_path / "b.png").api["1"]["inputs"]["text"] == "語"

    def test_texts_of_animated_pictures(self, tmp_path):
        chunk = b"comf" + b"prompt\0" + TAGS["prompt"].encode()
        content = b"\x89PNG\r\n\x1a\n" + (len(chunk) - 4).to_bytes(4, "big") + chunk + b"0000"
        (tmp_path / "a.png").write_bytes(content)
        assert read_workflow_file(tmp_path / "a.png").api == GRAPH

    @pytest.mark.parametrize("name", SAVERS)
    def test_files_cut_off_anywhere_end_in_an_error_or_the_workflow(self, tmp_path, name):
        SAVERS[name](tmp_path / name, TAGS)
        content = (tmp_path / name).read_bytes()
        for length in range(1, len(content), max(1, len(content) // 40)):
            (tmp_path / name).write_bytes(content[:length])
            try:
                found = read_workflow_file(tmp_path / name)
            except WorkflowFileError:
                continue
            assert found.api == GRAPH or found.page == PAGE

    def test_a_small_chunk_that_inflates_to_gigabytes_stops_early(self, tmp_path):
        text = b"prompt\0\0" + zlib.compress(b" " * (LARGEST_WORKFLOW + 10))
        content = b"\x89PNG\r\n\x1a\n" + len(text).to_bytes(4, "big") + b"zTXt" + text + b"0000"
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(WorkflowFileError, match="longer than 20000000"):
            read_workflow_file(tmp_path / "a.png")

    @pytest.mark.parametrize("name", ["a.png", "a.mkv", "a.mp4", "a.flac"])
    def test_texts_that_are_too_long(self, tmp_path, name, monkeypatch):
        monkeypatch.setattr(workflow_files, "LARGEST_WORKFLOW", 1000)
        SAVERS[name](tmp_path / name, {"workflow": json.dumps({**PAGE, "extra": "x" * 2000})})
        with pytest.raises(WorkflowFileError, match="longer than 1000 characters"):
            read_workflow_file(tmp_path / name)

    def test_a_list_of_addresses_is_not_followed(self, tmp_path):
        for name in ("a.m3u8", "a.mp4"):
            (tmp_path / name).write_text(
                "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"
            )
            with pytest.raises(WorkflowFileError, match="not JSON"):
                read_workflow_file(tmp_path / name)

    def test_ffmpeg_writes_what_is_read(self, tmp_path):
        from shutil import which

        if which("ffmpeg") is None:
            pytest.skip("no ffmpeg here")
        save_video(tmp_path / "a.mp4", TAGS)
        target = tmp_path / "b.mkv"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.mp4"), "-c", "copy", str(target)], check=True
        )
        assert read_workflow_file(target).api == GRAPH


def test_many_compressed_texts_do_not_fill_the_memory(tmp_path):
    save_png(tmp_path / "x.png", {f"k{i}": " " * 1000 for i in range(5)}, compressed=True)
    assert len(media_tags(tmp_path / "x.png", "png", 2000)) == 5
    with pytest.raises(MediaTagError, match="more than 4000 characters in all"):
        media_tags(tmp_path / "x.png", "png", 1000)
