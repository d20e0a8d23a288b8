"""The file of an adoption: CSV as spreadsheets save it, JSON Lines, and every mistake with its line."""

import json
from pathlib import Path

import pytest

from worker.cli.files import FileUnusable, read_text
from worker.core.model.departments import Department
from worker.operations.adoption_lines import AdoptionLine, NotReadable, lines_in

ONE, TWO = "SA0000000000000000A1", "SA0000000000000000A2"
SALES, SUPPORT = Department("default", "sales"), Department("acme", "support")
LINES = [AdoptionLine(2, SALES, ONE), AdoptionLine(3, SUPPORT, TWO, "Support, EU")]
CSV = f'department_id,auth_id,tenant,name\nsales,{ONE},,\nsupport,{TWO},acme,"Support, EU"\n'


def refused(content: str) -> str:
    with pytest.raises(NotReadable) as error:
        lines_in(content)
    return str(error.value)


def mistakes(content: str) -> list[tuple[int, str]]:
    return [(line.number, mistake) for line in lines_in(content) for mistake in line.mistakes]


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        CSV.rstrip("\n"),
        CSV.replace("department_id,auth_id", " Department_ID , AUTH_ID "),
        CSV.replace(f"sales,{ONE},,", f"sales,{ONE}"),
        CSV.replace(f"sales,{ONE},,", f" sales , {ONE} , , "),
        f"name\ttenant\tauth_id\tdepartment_id\n\t\t{ONE}\tsales\nSupport, EU\tacme\t{TWO}\tsupport\n",
        f"department_id;auth_id;tenant;name\nsales;{ONE};;\nsupport;{TWO};acme;Support, EU\n",
        f'department_id,auth_id,tenant,name,cost\nsales,{ONE},,,7\nsupport,{TWO},acme,"Support, EU",8\n',
    ],
)
def test_csv_as_programs_save_it(content):
    assert lines_in(content) == LINES


def test_a_byte_order_mark_is_skipped(tmp_path: Path):
    path = tmp_path / "file.csv"
    path.write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    assert lines_in(read_text(path)) == LINES


def test_another_encoding_is_named(tmp_path: Path):
    path = tmp_path / "file.csv"
    path.write_bytes(CSV.replace("EU", "Züri").encode("latin-1"))
    with pytest.raises(FileUnusable, match="UTF-8"):
        read_text(path)


def test_line_numbers_are_those_of_the_file():
    content = f'\ndepartment_id,auth_id,name\n\nsales,{ONE},"Sales\nand\nmore"\n\n\nsupport,{TWO},\n'
    assert [(line.number, line.name) for line in lines_in(content)] == [(4, "Sales and more"), (9, None)]


def test_json_lines():
    one = {"department_id": 7, "auth_id": ONE, "name": None, "cost_centre": [1]}
    two = {"department_id": "support", "auth_id": TWO, "tenant": "acme", "name": "Sup\u2028port"}
    content = f"{json.dumps(one)}\n\n{json.dumps(two, ensure_ascii=False)}\r\n"
    assert lines_in(content) == [
        AdoptionLine(1, Department("default", "7"), ONE),
        AdoptionLine(3, SUPPORT, TWO, "Sup port"),
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("department_id,auth_id\n", "no line after it"),
        ("[]", "jq -c '.[]'"),
        (f"sales,{ONE}\n", "line 1: the header has no department_id"),
        (f"departmentId,auth_id\nsales,{ONE}\n", "departmentid: write department_id"),
        (f"department_id,authId\nsales,{ONE}\n", "authid: write auth_id"),
        (f"department_id,auth_id,tenent\nsales,{ONE},acme\n", "tenent: write tenant"),
        (f"department_id,auth_id,auth_id\nsales,{ONE},{TWO}\n", "auth_id twice"),
        (f'department_id,auth_id\nsales,{ONE}\n"support,{TWO}\n', "line 3: not CSV"),
    ],
)
def test_a_file_that_is_no_list_is_refused_as_a_whole(content, why):
    assert why in refused(content)


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        (",", "department_id is missing"),
        ("sales,", "auth_id is missing"),
        ("sales,MA0000000000000000A1", "auth_id is that of a main account, not of a subaccount"),
        ("sales,sa0000000000000000a1", "auth_id must be SA and 18 capital letters or digits"),
        (f'"a\tb",{ONE}', "department_id must not contain control, format or surrogate characters"),
        (f"{'x' * 129},{ONE}", "department_id must have at most 128 characters"),
        (f"sales,{ONE},\u3164", "name must contain a visible character"),
        (f"sales,{ONE},Sales,more", "4 fields, and the header has 3"),
    ],
)
def test_a_wrong_line_is_a_mistake_of_its_own(fields, mistake):
    content = f"department_id,auth_id,name\ngood,{TWO},\n{fields}\n"
    if fields == ",":
        content = content.replace("\n,\n", f"\n,{ONE}\n")
    assert mistakes(content) == [(3, mistake)]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("{", "not JSON (EOF while parsing an object at column 1)"),
        ("[]", "not a JSON object"),
        (
            json.dumps({"departmentId": "x", "auth_id": ONE}),
            "department_id is missing, but departmentId: write department_id",
        ),
        (json.dumps({"department_id": 1.5, "auth_id": ONE}), "department_id must be text or an integer"),
        (
            json.dumps({"department_id": "x", "auth_id": 1}),
            "auth_id must be SA and 18 capital letters or digits",
        ),
        (json.dumps({"department_id": "x", "auth_id": ONE, "name": 1}), "name must be text"),
        (
            json.dumps({"department_id": "x", "auth_id": ONE, "tenantt": "a"}),
            "tenant is missing, but tenantt: write tenant",
        ),
    ],
)
def test_a_wrong_object_is_a_mistake_of_its_own(line, mistake):
    good = json.dumps({"department_id": "good", "auth_id": TWO})
    assert mistakes(f"{good}\n{line}\n") == [(2, mistake)]
