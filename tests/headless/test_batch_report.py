"""The report of a batch: what it says, and that it needs and runs nothing from elsewhere."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from talking_portrait.headless.batch_folder import THUMBNAIL_FILE
from talking_portrait.headless.batch_jobs import JobRow
from talking_portrait.headless.batch_report import ReportHead, row_entry, summary_line, write_report
from talking_portrait.headless.batch_run import BROKEN, EARLIER, FINISHED, RowResult
from talking_portrait.headless.batch_thumbnails import THUMBNAIL_SIZE, write_thumbnail
from talking_portrait.headless.batch_workflow import BatchJob

EVIL = '<script>alert("x")</script>&\'"'


def result(number, status=FINISHED, name=None, settings=None, **fields):
    row = JobRow(number, number + 1, name or f"row{number}", settings or {"seed": number}, True)
    return RowResult(BatchJob(row, {}), status, **fields)


class _Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path):
    """Write a report and read its page."""

    def once(*results, title="title"):
        return _Page(write_report(tmp_path, ReportHead(title, 12.0), results).read_text(encoding="utf-8"))

    return once


def test_lines_for_programs(tmp_path):
    done = result(1, files=("text/a.txt",), seconds=1.23456, attempts=1, worker="here 0")
    failed = result(2, BROKEN, error="the picture\nis 1x1", attempts=2)
    write_report(tmp_path, ReportHead("title", 1.0), [done, failed])
    lines = (tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [row_entry(done), row_entry(failed)]
    assert row_entry(done) == {
        "number": 1,
        "line": 2,
        "name": "row1",
        "status": "done",
        "settings": {"seed": 1},
        "files": ["row1/text/a.txt"],
        "seconds": 1.235,
        "attempts": 1,
        "worker": "here 0",
        "error": None,
    }


def test_texts_are_shown_and_do_nothing(page):
    evil = {"name": f"žluť {EVIL}", "settings": {EVIL: EVIL}, "files": (f"{EVIL}.txt",)}
    shown = page(result(1, **evil), result(2, BROKEN, error=EVIL), title=EVIL)
    assert "script" not in shown.tags
    assert shown.texts.count(EVIL) == 5


def test_nothing_comes_from_elsewhere(page, tmp_path):
    shown = page(result(1, files=("a b/%41#?.mp4", "javascript:x.txt")))
    assert shown.addresses == ["row1/a%20b/%2541%23%3F.mp4", "row1/javascript%3Ax.txt"]
    assert unquote(shown.addresses[0]) == "row1/a b/%41#?.mp4"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|@import|url\(", text.replace("<!doctype html>", ""))


def test_thumbnails_are_in_the_page(page, tmp_path):
    (tmp_path / "row1").mkdir()
    Image.new("RGB", (9, 7), "red").save(tmp_path / "row1" / "a.png")
    assert write_thumbnail([tmp_path / "row1" / "a.png"], tmp_path / "row1" / THUMBNAIL_FILE)
    shown = page(result(1), result(2, EARLIER))
    assert len(shown.addresses) == 1
    kind, _, content = shown.addresses[0].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (9, 7)


def test_long_texts_are_cut_on_the_page_alone(page):
    shown = page(result(1, BROKEN, settings={"text": "x" * 5000}, error="y" * 5000))
    assert max(map(len, shown.texts[10:])) < 2100
    assert len(row_entry(result(1, settings={"text": "x" * 5000}))["settings"]["text"]) == 5000


@pytest.mark.parametrize(("seconds", "text"), [(4.26, "4.3 s"), (61.0, "1 min 01 s"), (3725.0, "1 h 02 min")])
def test_summary(seconds, text):
    line = summary_line(ReportHead("t", seconds, interrupted=True), [result(1), result(2), result(3, BROKEN)])
    assert line.startswith(f"stopped; 3 rows: 2 done, 1 failed · {text} ·")


class TestThumbnail:
    def test_first_frame_of_a_video_before_pictures(self, tmp_path):
        import av

        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height = 320, 160
            for level in (200, 0, 0):
                frame = av.VideoFrame.from_ndarray(np.full((160, 320, 3), level, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        Image.new("RGB", (10, 10), "red").save(tmp_path / "p.png")
        target = tmp_path / "t.jpg"
        assert write_thumbnail([tmp_path / "p.png", tmp_path / "v.mp4"], target)
        picture = Image.open(target)
        assert picture.size == (THUMBNAIL_SIZE, THUMBNAIL_SIZE // 2)
        assert all(abs(level - 200) < 8 for level in picture.getpixel((80, 40)))

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "1"])
    def test_pictures_of_every_kind(self, tmp_path, mode):
        Image.new(mode, (300, 600)).save(tmp_path / "p.png")
        assert write_thumbnail([tmp_path / "p.png"], tmp_path / "t.jpg")
        assert Image.open(tmp_path / "t.jpg").size == (THUMBNAIL_SIZE // 2, THUMBNAIL_SIZE)

    @pytest.mark.parametrize("name", ["broken.mp4", "broken.png", "sound.wav"])
    def test_none_is_no_error(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"no media")
        assert not write_thumbnail([tmp_path / name], tmp_path / "t.jpg")
        assert not (tmp_path / "t.jpg").exists()
