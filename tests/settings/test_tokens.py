"""The file of the intake's tokens: its lines, its mistakes, and a change while the intake runs."""

import os
from pathlib import Path

import pytest

from worker.core.intake.proof import NotProven
from worker.settings.tokens import LONGEST_TOKEN, Tokens, tokens_file, tokens_in


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    return path


def test_lines_have_a_name_and_a_token():
    found = tokens_in(b"# of the HR system\n\nhr: abc\n  crm :  x:y=z \nhr: newer\r\n")
    assert [(token.name, token.place) for token in found] == [("hr", 1), ("crm", 1), ("hr", 2)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no token"),
        (b"# nothing\n\n", "no token"),
        (b"secret-token", "line 1: write `name: token`"),
        (b"hr: a\n: secret-token", "line 2: write `name: token`"),
        (b"h r: secret-token", "line 1: write `name: token`"),
        (b"x" * 65 + b": secret-token", "line 1: write `name: token`"),
        (b"hr:", "line 1: a token has"),
        (b"hr: secret-token with blanks", "line 1: a token has"),
        ("hr: secret-token-ü".encode(), "line 1: a token has"),
        (b"hr: " + b"s" * (LONGEST_TOKEN + 1), "line 1: a token has"),
        (b"hr: secret-token\ncrm: secret-token", "line 2: this token is there twice"),
        (b"hr: \xff\xfe", "it is not"),
    ],
)
def test_a_mistake_names_its_line_and_no_token(content, told):
    with pytest.raises(ValueError, match=told) as caught:
        tokens_in(content)
    assert "secret-token" not in str(caught.value)
    assert "sss" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        tokens_file(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="tokens: line 1"):
        tokens_file(str(write(tmp_path / "tokens", "wrong")))
    assert tokens_file(str(write(tmp_path / "tokens", "hr: abc"))) == tmp_path / "tokens"


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER   abc  "])
def test_a_token_proves_its_name(tmp_path: Path, header: str):
    assert Tokens(write(tmp_path / "tokens", "crm: x\nhr: abc")).prove(header).name == "hr"


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        (None, "no-header"),
        ("", "no-header"),
        ("Basic abc", "no-bearer-token"),
        ("abc", "no-bearer-token"),
        ("Bearer", "no-bearer-token"),
        ("Bearer ", "wrong-token"),
        ("Bearer ab", "wrong-token"),
        ("Bearer abcd", "wrong-token"),
        ("Bearer \udcff", "wrong-token"),
    ],
)
def test_anything_else_is_refused_with_its_cause(tmp_path: Path, header: str | None, cause: str):
    with pytest.raises(NotProven) as caught:
        Tokens(write(tmp_path / "tokens", "hr: abc")).prove(header)
    assert cause in str(caught.value)


def test_a_rotation(tmp_path: Path):
    """The old token and the new one are in force together, then the new one alone."""
    told: list[str | None] = []
    path = write(tmp_path / "tokens", "hr: old")
    tokens = Tokens(path, told.append)
    write(path, "hr: old\nhr: new")
    assert [tokens.prove(f"Bearer {one}").place for one in ("old", "new")] == [1, 2]
    write(path, "hr: new")
    with pytest.raises(NotProven):
        tokens.prove("Bearer old")
    assert tokens.names == ["hr"]
    assert told == [None, None]


@pytest.mark.parametrize("content", ["", "half a li", "hr: a\nhr: a"])
def test_a_half_written_file_leaves_the_old_tokens_in_force(tmp_path: Path, content: str):
    told: list[str | None] = []
    path = write(tmp_path / "tokens", "hr: old")
    tokens = Tokens(path, told.append)
    write(path, content)
    for _ in range(3):
        assert tokens.prove("Bearer old").name == "hr"
    (why,) = told  # once, not at each request
    assert why
    write(path, "hr: new")
    assert tokens.prove("Bearer new").name == "hr"
    assert told == [why, None]


def test_a_file_that_is_away_leaves_the_old_tokens_in_force(tmp_path: Path):
    told: list[str | None] = []
    path = write(tmp_path / "tokens", "hr: old")
    tokens = Tokens(path, told.append)
    path.unlink()
    assert tokens.prove("Bearer old").name == "hr"
    (why,) = told
    assert "cannot be read" in str(why)


def test_a_token_is_not_kept(tmp_path: Path):
    tokens = Tokens(write(tmp_path / "tokens", "hr: secret-token"))
    assert "secret-token" not in repr(vars(tokens))
