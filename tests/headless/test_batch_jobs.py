"""Reading lists of jobs."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talking_portrait.headless import batch_jobs
from talking_portrait.headless.batch_jobs import JobListError, problem_with_name, read_job_list


@pytest.fixture
def read(tmp_path):
    """Write a list and read it."""

    def once(content, name="jobs.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_job_list(path)

    return once


def test_table_gives_texts_by_column(read):
    rows = read("image,seed\nanna.jpg,1\nbo.jpg,2\n")
    assert [dict(row.settings) for row in rows] == [
        {"image": "anna.jpg", "seed": "1"},
        {"image": "bo.jpg", "seed": "2"},
    ]
    assert [(row.number, row.line, row.name, row.typed) for row in rows] == [
        (1, 2, "0001", False),
        (2, 3, "0002", False),
    ]


def test_json_lines_give_values_as_they_are(read):
    rows = read('{"seed": 3, "text": "3"}\n\n{"loud": true, "name": "last"}\n', "jobs.jsonl")
    assert [dict(row.settings) for row in rows] == [{"seed": 3, "text": "3"}, {"loud": True}]
    assert [(row.line, row.name, row.typed) for row in rows] == [(1, "0001", True), (3, "last", True)]


@pytest.mark.parametrize("column", ["name", "id"])
def test_a_row_may_name_its_folder(read, column):
    assert [row.name for row in read(f"{column},seed\nanna,1\n")] == ["anna"]
    assert [row.name for row in read(f'{{"{column}": 7, "seed": 1}}\n', "jobs.jsonl")] == ["7"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_spreadsheets_write_marks_and_line_ends_of_their_own(read, encoding, end):
    rows = read(f"name,text{end}Čyril,žluť{end}".encode(encoding))
    assert (rows[0].name, dict(rows[0].settings)) == ("Čyril", {"text": "žluť"})


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks_between_columns(read, mark):
    assert dict(read(f"image{mark}seed\na,b.jpg{mark}1\n")[0].settings) == {"image": "a,b.jpg", "seed": "1"}


@pytest.mark.parametrize("text", ["\n\nimage;seed\na,b.jpg;1\n", "image;seed\ra,b.jpg;1\r"])
def test_the_first_line_with_content_tells_the_mark(read, text):
    assert dict(read(text)[0].settings) == {"image": "a,b.jpg", "seed": "1"}


def test_quoted_cells_hold_newlines_commas_and_quotes_and_lines_are_counted(read):
    rows = read('text,seed\n"one, ""two""\nthree",1\n\nlast,2\n')
    assert rows[0].settings["text"] == 'one, "two"\nthree'
    assert [row.line for row in rows] == [2, 5]


def test_lines_without_content_are_left_out(read):
    assert [row.settings["seed"] for row in read("image,seed\na,1\n,,\n\nb,2\n")] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,seed\nanna.jpg\n", "line 2 has 1 cells of 2: 'seed' missing"),
        ("image,seed\nanna.jpg,1,2\n", "line 2 has 3 cells, the first line 2 columns"),
        ("image,seed\nanna.jpg,\n", "line 2: 'seed' is empty"),
        ("image,image\na,b\n", "the column 'image' comes twice"),
        ("image,\na,b\n", "column 2 has no name"),
        ('image\n"anna\n', "is not CSV"),
        ("image\n" + "x" * 200_000 + "\n", "is not CSV"),
        ("image,seed\n", "holds no rows"),
        ("", "holds no rows"),
        ("name,id,seed\na,b,1\n", "both 'name' and 'id'"),
        ("name,seed\nanna,1\nbo,2\nAnna,3\n", "line 4: the name 'Anna' is that of line 2 too"),
        ("name,seed\n../x,1\n", "holds '/'"),
        ("image\nž".encode("latin2"), "is not UTF-8"),
        ("image\nanna".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_bad_table(read, content, message):
    with pytest.raises(JobListError, match=message.replace("(", r"\(")):
        read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": 1}\n{"seed": ', "line 2 is not JSON"),
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ("{}\n", "line 1 is not a JSON object"),
        ('{"seed": 1, "seed": 2}\n', "the key 'seed' comes twice"),
        ('{"seed": NaN}\n', "NaN is not a JSON number"),
        ('{"seed": 1e999}\n', "line 1 is not JSON"),
        ('{"text": "\\ud800"}\n', "line 1 is not JSON"),
        ('{"seed": 1' + "0" * 5000 + "}\n", "line 1 is not JSON"),
        ("[" * 100_000 + "\n", "line 1 is not JSON"),
        ('{"name": "", "seed": 1}\n', "0 characters"),
        ('{"name": null, "seed": 1}\n', "the name null is no text and no whole number"),
        ('{"name": 1.5, "seed": 1}\n', "the name 1.5 is no text"),
        ('{"name": true, "seed": 1}\n', "the name true is no text"),
        ("\n\n", "holds no rows"),
    ],
)
def test_bad_json_lines(read, content, message):
    with pytest.raises(JobListError, match=message):
        read(content, "jobs.jsonl")


def test_problems_are_told_together(read):
    with pytest.raises(JobListError) as caught:
        read("image,seed\n" + "x\n" * 15)
    assert str(caught.value).count("missing") == batch_jobs.PROBLEMS_SHOWN
    assert "and 5 more" in str(caught.value)


def test_unknown_kind_of_file(read):
    with pytest.raises(JobListError, match=r"has to end in \.csv"):
        read("image\na\n", "jobs.xlsx")


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(JobListError, match="cannot be read"):
        read_job_list(tmp_path / "none.csv")


def test_list_that_is_too_long(read, monkeypatch):
    monkeypatch.setattr(batch_jobs, "MAXIMUM_LIST_BYTES", 10)
    with pytest.raises(JobListError, match="split it"):
        read("image\nsomething\n")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".hidden", "a/b", "a\\b", "..", "con", "NUL.txt", "a:b", "dot.", "x" * 101, "a\n"),
        *("COM¹", "aux .txt", "CONIN$", "話" * 67),
    ],
)
def test_names_that_are_no_folders_somewhere(name):
    assert problem_with_name(name)


@pytest.mark.parametrize("name", ["anna", "Čyril 4", "a.b", "0001", "connie", "com", "x" * 100, "話" * 66])
def test_names_that_are(name):
    assert problem_with_name(name) is None


def test_many_rows_have_names_of_one_length(read):
    rows = read("\n".join(json.dumps({"seed": n}) for n in range(10_000)), "jobs.jsonl")
    assert {len(row.name) for row in rows} == {5}


PIECES = st.sampled_from(
    [
        "name",
        "image",
        ",",
        ";",
        "\t",
        "\n",
        "\r\n",
        '"',
        '""',
        "{",
        "}",
        ":",
        '{"a": 1}',
        "[",
        "1e999",
        "NaN",
        "\0",
        "\ufeff",
    ]
)


@given(
    content=st.one_of(
        st.binary(max_size=60), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=25).map("".join)
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_there_are_rows_or_one_error(tmp_path, content, suffix):
    path = tmp_path / f"jobs{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        rows = read_job_list(path)
    except JobListError as error:
        message = str(error)
        assert message.startswith(str(path))
    else:
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        assert len({row.name.casefold() for row in rows}) == len(rows)
        assert all(problem_with_name(row.name) is None for row in rows)
