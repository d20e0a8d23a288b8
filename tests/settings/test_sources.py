"""Source profiles in files: the folder, YAML as people mean it, and secrets that are rotated."""

from pathlib import Path

import pytest

from worker.settings.sources import SecretsMissing, SourcesInvalid, load_sources, ready_sources
from worker.settings.yaml_document import NotYaml, document_of

ACME = """
auth: {kind: hmac, header: X-Acme-Signature, secret_file: acme.secret}
id: item.id
name: item.name
time: item.at
samples:
  - body: {id: 42, name: Sales, at: 2026-11-01T08:30:00Z}
    events: [{department_id: "42", name: Sales, time: 2026-11-01T08:30:00Z}]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "acme.yaml").write_text(ACME)
    (tmp_path / "acme.secret").write_text("first\n")
    return tmp_path


def refused(folder, load=load_sources):
    with pytest.raises(SourcesInvalid) as error:
        load(folder)
    assert error.value.exit_code == 2
    return str(error.value).splitlines()


def test_the_folder_adds_to_the_shipped_profiles(folder):
    sources = ready_sources(folder)

    assert {"okta", "acme"} <= sources.keys()
    assert list(sources) == sorted(sources)
    assert [name for name, source in sources.items() if source.is_enabled] == ["acme"]


def test_a_file_of_the_same_name_replaces_a_shipped_profile(folder):
    (folder / "okta.yaml").write_text(ACME)
    source = load_sources(folder)["okta"]

    assert not source.is_shipped
    assert source.profile.secret_file == "acme.secret"
    assert source.is_enabled


def test_other_files_are_left_alone(folder):
    (folder / "README.md").write_text("notes")
    (folder / "..data").mkdir()
    (folder / ".hidden.yaml").write_text("{")

    assert "acme" in load_sources(folder)


def test_every_mistake_of_every_file_is_a_line(folder):
    (folder / "acme.yaml").write_text(ACME.replace("name: item.name", "nmae: item.name"))
    (folder / "other.yaml").write_text("auth: {kind: none")
    (folder / "utf16.yaml").write_bytes(ACME.encode("utf-16"))
    (folder / "Bad Name.yaml").write_text(ACME)
    (folder / "twice.yaml").write_text(ACME + "id: item.other\n")

    assert [line.partition(" did")[0][:60] for line in refused(folder)] == [
        "Bad Name.yaml: file: its name is the profile's: 1 to 64 of a",
        "acme.yaml: nmae: unknown key;",
        "acme.yaml: name: missing; a JMESPath expression for the depa",
        "other.yaml: file: line 1: expected ',' or '}', but got '<str",
        "twice.yaml: file: line 2: the key id stands there twice",
        "utf16.yaml: file: is UTF-16: save it as UTF-8",
    ]


def test_two_files_of_one_profile_are_refused(folder):
    (folder / "acme.yml").write_text(ACME)

    assert refused(folder) == [
        "acme.yaml: file: there is another file of this name; keep one",
        "acme.yml: file: there is another file of this name; keep one",
    ]


def test_a_folder_that_is_not_there(tmp_path):
    (line,) = refused(tmp_path / "missing")

    assert line.startswith("PROVISIONER_SOURCES cannot be read: No such file or directory")


def test_a_server_wants_samples_that_map_and_secrets(folder):
    (folder / "acme.yaml").write_text(ACME.replace("name: Sales,", "name: Salez,", 1))
    (folder / "acme.secret").unlink()

    failed, missing = refused(folder, ready_sources)
    assert failed == "acme.yaml: samples[0].events[0].name: expected Sales, got Salez"
    assert missing.startswith("acme.yaml: auth.secret_file: cannot be read: No such file")
    assert "acme" in load_sources(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("12:30", "12:30"),
        ("2026-11-01", "2026-11-01"),
        ("2026-11-01T08:30:00Z", "2026-11-01T08:30:00Z"),
        ("007", 7),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("-3", -3),
        ("true", True),
        ("yes", "yes"),
        ("~", None),
        ("null", None),
        ("", None),
        ('"7"', "7"),
        ("{a: [1, two]}", {"a": [1, "two"]}),
    ],
)
def test_yaml_is_read_as_people_mean_it(text, expected):
    assert document_of(text) == expected
    assert type(document_of(text)) is type(expected)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [true]", "{a: 1, a: 2}", "a: *b", "- {", "\x00"]
)
def test_what_is_no_yaml_is_refused(text):
    with pytest.raises(NotYaml):
        document_of(text)


def secrets_of(folder, on_read=lambda _why: None):
    return load_sources(folder)["acme"].secrets(on_read)


def values(secrets):
    return [secret.get_secret_value() for secret in secrets.current()]


def rewritten(path: Path, text: str) -> None:
    """Replaces the file, as `mv` and Kubernetes do; its time may stay the same."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_secrets_are_lines_and_are_read_again_when_they_change(folder):
    heard: list[str | None] = []
    secrets = secrets_of(folder, heard.append)
    assert values(secrets) == ["first"]

    rewritten(folder / "acme.secret", "\ufeffsecond\r\n\n  first  \n")
    assert values(secrets) == ["second", "first"]
    assert values(secrets) == ["second", "first"]
    assert heard == [None]


def test_a_half_written_file_leaves_the_old_secrets_and_says_so_once(folder):
    heard: list[str | None] = []
    secrets = secrets_of(folder, heard.append)
    values(secrets)

    rewritten(folder / "acme.secret", "whsec_\u00e4canary\n")
    assert values(secrets) == values(secrets) == ["first"]
    assert heard == [f"{folder}/acme.secret line 1: begins with whsec_, but the rest is not base64"]

    rewritten(folder / "acme.secret", "")
    assert values(secrets) == ["first"]
    assert heard[1:] == [f"{folder}/acme.secret is empty; write a secret in each line"]


def test_a_file_that_is_gone_takes_its_secrets_with_it(folder):
    secrets = secrets_of(folder)
    values(secrets)
    (folder / "acme.secret").unlink()
    with pytest.raises(SecretsMissing, match="No such file"):
        secrets.current()

    (folder / "acme.secret").write_text("back\n")
    assert values(secrets) == ["back"]


def test_a_first_file_without_secrets_is_missing_them(folder):
    (folder / "acme.secret").write_text("\n \n")

    with pytest.raises(SecretsMissing, match="is empty"):
        secrets_of(folder).current()


def test_no_secret_is_shown(folder):
    secrets = secrets_of(folder)

    assert "first" not in repr(secrets.current()) + repr(load_sources(folder)["acme"])
