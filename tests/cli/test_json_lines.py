"""Files of JSON lines: as editors and tools save them, with every mistake named."""

import json

import pytest

from worker.cli.files import FileUnusable, read_text
from worker.operations.json_lines import BadItems, read_each

ONE, TWO = {"id": "1", "name": "Équipe\u2028"}, {"id": "2"}
LINES = f"{json.dumps(ONE)}\n{json.dumps(TWO)}\n"


def mistakes(text, make=dict):
    with pytest.raises(BadItems) as refused:
        read_each(text, make)
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\n\n \n"),
        json.dumps([ONE, TWO]),
        json.dumps([ONE, TWO], indent=2),
        json.dumps(ONE, ensure_ascii=False) + "\n" + json.dumps(TWO),
    ],
)
def test_objects_are_read_from_lines_and_from_an_array(text):
    assert read_each(text, dict) == [ONE, TWO]


def test_one_object_over_several_lines_is_one_object():
    assert read_each(json.dumps(ONE, indent=2), dict) == [ONE]


@pytest.mark.parametrize("text", ["", "\n", "[]", " [ ] \n"])
def test_a_file_may_be_empty(text):
    assert read_each(text, dict) == []


def test_several_objects_over_several_lines_are_one_mistake():
    text = "\n".join(json.dumps(one, indent=2) for one in (ONE, TWO))
    assert mistakes(text) == [
        "no line is a JSON object; `jq -c .` writes each on one line, `jq -c '.[]'` those of an array"
    ]


def test_every_mistake_has_its_place():
    def make(given):
        if given != TWO:
            raise ValueError("odd")

    assert mistakes(f"{json.dumps(TWO)}\nhello\n\n[]\n{json.dumps(ONE)}\n", make) == [
        "line 2: not JSON (expected value at column 1)",
        "line 4: not a JSON object",
        "line 5: odd",
    ]
    assert mistakes(json.dumps([TWO, ONE, 5]), make) == ["item 2: odd", "item 3: not a JSON object"]


def test_many_mistakes_are_counted():
    lines = mistakes("{}\n" + "x\n" * 1_030)
    assert (len(lines), lines[-1]) == (21, "and 1,010 more")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_skipped(tmp_path, encoding):
    file = tmp_path / "events.jsonl"
    file.write_bytes(json.dumps(ONE, ensure_ascii=False).encode(encoding))
    assert read_each(read_text(file), dict) == [ONE]


@pytest.mark.parametrize(
    ("encoding", "why"),
    [
        ("utf-16", "is UTF-16: save it as UTF-8"),
        ("utf-16-le", "is UTF-16: save it as UTF-8"),
        ("latin-1", "is not UTF-8: save it as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path, encoding, why):
    file = tmp_path / "events.jsonl"
    file.write_bytes('{"name": "Équipe"}\n'.encode(encoding))
    with pytest.raises(FileUnusable) as refused:
        read_text(file)
    assert str(refused.value) == f"{file} {why}"
