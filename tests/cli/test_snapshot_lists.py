"""Lists of departments as people export them: what is read, and what is refused at which line."""

import io
from typing import Any

import pytest

from worker.core.model.departments import Department
from worker.core.snapshots import Row
from worker.operations import snapshot_lists
from worker.operations.snapshot_lists import ListUnreadable, Refused, items_in, row_by_contract, rows_of


def read(content: str | bytes, encoding: str | None = None) -> list[Row | Refused]:
    raw = content.encode() if isinstance(content, str) else content
    return list(rows_of(items_in(io.BytesIO(raw), "list", encoding), row_by_contract))


def row(id_: str, name: str, line: int, tenant: str = "default", parent_id: str | None = None) -> Row:
    return Row(Department(tenant, id_), name, line, parent_id)


TWO = [row("1", "Sales", 2), row("2", "Ops", 3)]


@pytest.mark.parametrize(
    "content",
    [
        "department_id,name\n1,Sales\n2,Ops\n",
        "department_id,name\r\n1,Sales\r\n2,Ops",
        "\ufeffdepartment_id,name\n1,Sales\n2,Ops\n",
        "department_id;name\n1;Sales\n2;Ops\n",
        "department_id\tname\n1\tSales\n2\tOps\n",
        "Name,Department_ID\nSales,1\nOps,2\n",
        '"department_id","name"\n"1"," Sales "\n"2","Ops"\n',
        "department_id,name\n1,Sales\n2,Ops\n,\n\n ,  \n",
        "department_id,name,parent_id,tenant\n1,Sales,,\n2,Ops,,\n",
        "department_id,name\n1,Sales\n2,Ops\n".encode("utf-16"),
        b"\xff\xfe" + "department_id;name\n1;Sales\n2;Ops\n".encode("utf-16-le"),
        b"\xfe\xff" + "department_id;name\n1;Sales\n2;Ops\n".encode("utf-16-be"),
    ],
)
def test_a_csv_file_is_read_however_it_was_saved(content):
    assert read(content) == TWO


def test_a_first_line_of_excel_names_the_separator():
    assert read("sep=;\ndepartment_id;name\n1;Sales\n") == [row("1", "Sales", 3)]


def test_an_encoding_is_not_guessed():
    content = "department_id,name\n1,Küche\n".encode("cp1252")
    with pytest.raises(ListUnreadable, match="list:2: not utf-8; give --encoding"):
        read(content)
    assert read(content, "cp1252") == [row("1", "Küche", 2)]
    with pytest.raises(ListUnreadable, match="UTF-16 without a byte order mark"):
        read("department_id,name\n1,A\n".encode("utf-16-le"))


def test_the_separator_is_that_of_the_header_not_of_the_names():
    assert read('department_id;name\n1;"A, B, C"\n2;D,E,F\n') == [
        row("1", "A, B, C", 2),
        row("2", "D,E,F", 3),
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("3", "1 fields, and the header has 2"),
        ("3,A,B", "3 fields, and the header has 2"),
        (",A", "department_id is missing"),
        ("  ,A", "department_id is missing"),
        ("3,", "name is missing"),
        ("4.70E+05,A", "department_id is a number with an exponent"),
        ("1-2,A", "department_id looks like a date"),
        ("2026-11,A", "department_id looks like a date"),
        ("01/02/2026,A", "department_id looks like a date"),
        ("2-Jan,A", "department_id looks like a date"),
        ("Total,12", "department_id is that of a footer"),
        ("3,\x00", "name must not contain control"),
        ("3,\u200b", "name must contain a visible character"),
        ("x" * 129 + ",A", "department_id must have at most 128 characters"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(line, error):
    good, refused, last = read(f"department_id,name\n1,Sales\n{line}\n2,Ops\n")
    assert (good, last) == (TWO[0], row("2", "Ops", 4))
    assert isinstance(refused, Refused)
    assert refused.line == 3
    assert refused.error.startswith(error)


@pytest.mark.parametrize("id_", ["00042", "100-20", "12-345", "A-1", "2026", "1.5", "E+5", "99-99"])
def test_an_id_that_only_resembles_a_date_is_taken(id_):
    assert read(f"department_id,name\n{id_},A\n") == [row(id_, "A", 2)]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "list: the list is empty"),
        (" \n ", "list: the list is empty"),
        ("department_id,name,name\n1,A,B\n", "list:1: two columns are called 'name'"),
        ("department_id,name,cost\n1,A,3\n", "list:1: unknown column 'cost'"),
        ("departmentId,name\n1,A\n", "list:1: there is no column department_id; is it departmentid"),
        ("department_id\n1\n", "list:1: there is no column name"),
        ('department_id,name\n1,"A\n2,B\n', "list:2: not CSV"),
        ('department_id,name\n1,"A"B\n', "list:2: not CSV"),
        (f"department_id,name\n1,{'x' * 140_000}\n", "list:2: not CSV"),
        ('[{"department_id":1,"name":"A"}', "list:1: not JSON, or the file was cut"),
        ('[{"department_id":1,"name":"A"},\n{"depart', "list:2: not JSON, or the file was cut"),
        ('[{"department_id":1,"name":"A"}\n{"department_id":2,"name":"B"}]', "list:2: a comma"),
        ('[{"department_id":1,"name":"A"}] x', "list:1: something stands after"),
        ('[{"department_id":1,"name":"A"},]', "list:1: not JSON"),
        ("[" * 100_000, "list:1: not JSON"),
    ],
)
def test_a_list_that_is_wrong_as_a_whole_says_where(content, error):
    with pytest.raises(ListUnreadable) as caught:
        read(content)
    assert str(caught.value).startswith(error)


def test_a_record_over_several_lines_has_the_number_of_its_first():
    found = read('department_id,name\n1,"Sales\nEMEA"\n2\n3,Ops\n')
    assert found == [
        row("1", "Sales EMEA", 2),
        Refused(4, "1 fields, and the header has 2"),
        row("3", "Ops", 5),
    ]


JSON: list[Any] = [
    '{"department_id": 1, "name": "Sales"}',
    '{"department_id": "2", "name": "Ops", "tenant": null}',
]


@pytest.mark.parametrize("piece", [1, 7, 64 * 1024])
def test_json_is_read_as_lines_or_as_an_array_in_pieces_of_any_size(monkeypatch, piece):
    monkeypatch.setattr(snapshot_lists, "CHUNK", piece)
    assert read("\n".join(JSON)) == [row("1", "Sales", 1), row("2", "Ops", 2)]
    assert read(f"[\n  {JSON[0]},\n\n  {JSON[1]}\n]\n") == [row("1", "Sales", 2), row("2", "Ops", 4)]
    assert read(f"[{JSON[0]},{JSON[1]}]") == [row("1", "Sales", 1), row("2", "Ops", 1)]
    assert read("[]") == []
    assert read('department_id;name\n1;Küche\n2;"A;\nB"\n') == [row("1", "Küche", 2), row("2", "A; B", 3)]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("17", "not a JSON object"),
        ('{"department_id": 1.5, "name": "A"}', "department_id must be text or an integer"),
        ('{"department_id": true, "name": "A"}', "department_id must be text or an integer"),
        ('{"department_id": null, "name": "A"}', "department_id is missing"),
        ('{"department_id": 1, "name": 7}', "name must be text"),
        ('{"department_id": 1, "name": "A", "name": "B"}', "'name' stands twice in it"),
        ('{"department_id": 1, "name": "A", "cost": 3}', "unknown member 'cost'"),
        ('{"departmentId": 1, "name": "A"}', "unknown member 'departmentId'; did you mean department_id?"),
    ],
)
def test_a_bad_item_is_refused_with_its_line(item, error):
    (in_array,) = read(f"[\n{item}\n]")
    assert isinstance(in_array, Refused)
    assert in_array.line == 2
    assert in_array.error.startswith(error)
    (_, in_lines) = read(f"{JSON[0]}\n{item}\n")
    assert in_lines == Refused(2, in_array.error)


def test_a_line_that_is_no_json_is_refused():
    assert read(f'{JSON[0]}\n{{"depart\n') == [
        row("1", "Sales", 1),
        Refused(2, "not JSON: write one object on each line, or one array"),
    ]


def test_the_parent_is_carried():
    assert read("department_id,name,parent_id\n1,A,9\n") == [row("1", "A", 2, parent_id="9")]
