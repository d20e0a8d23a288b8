"""Tags, idempotency keys and names, by which a subaccount is found again."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.text import NAME_LENGTH
from tests.support.builders import AUTH_ID, SALES, an_entry, created
from worker.core.model.causes import Reference
from worker.core.model.departments import Department
from worker.core.naming import TAG_LENGTH, Names, NameTemplate, department_tag, idempotency_key

CROCKFORD = set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
TAG, OTHER_TAG = "DD9K4N194E", "CGE4V683A8"
EVENT = Reference("/hr", "created-1", "department.created.v1")

names = st.text(min_size=1, max_size=NAME_LENGTH)
departments = st.builds(Department, st.text(min_size=1), st.text(min_size=1))
templates = st.sampled_from(
    [
        NameTemplate(),
        NameTemplate("{tag} {name}"),
        NameTemplate("{name}{tag}"),
        NameTemplate("Dept. (*) {name} ^{tag}$ \\d", 80),
        NameTemplate("{name} [{tag}]", 14),
    ]
)


class TestTag:
    # Computed independently of the code. Existing subaccounts carry these tags: never change them.
    @pytest.mark.parametrize(
        ("owner", "department", "incarnation", "tag"),
        [
            ("default", SALES, 1, "DD9K4N194E"),
            ("default", SALES, 2, "CGE4V683A8"),
            ("default", Department("default", "sales"), 1, "GPNC4B2E6N"),
            ("hr", SALES, 1, "ABT00HC50S"),
            ("default", Department("acme", 'Zürich "1"\\部門'), 1, "HDQQ9K2KT0"),
        ],
    )
    def test_values_are_fixed_forever(self, owner, department, incarnation, tag):
        assert department_tag(owner, department, incarnation) == tag

    @given(st.text(), departments, st.integers(1, 10**6))
    def test_a_tag_is_ten_unambiguous_characters(self, owner, department, incarnation):
        tag = department_tag(owner, department, incarnation)

        assert len(tag) == TAG_LENGTH == 10
        assert set(tag) <= CROCKFORD

    def test_a_tag_depends_on_each_part_and_its_boundary(self):
        parts = [
            ("default", SALES, 1),
            ("default2", SALES, 1),
            ("default", Department("acme2", "sales"), 1),
            ("default", Department("acme", "sales2"), 1),
            ("default", SALES, 2),
            ("default", SALES, 12),
            ("defaultacme", Department("", "sales"), 1),
            ("default", Department("acmesales", ""), 1),
            ("default", Department("acme", "sales1"), 1),
            ("acme", Department("default", "sales"), 1),
        ]

        assert len({department_tag(*each) for each in parts}) == len(parts)


class TestIdempotencyKey:
    def test_values_are_fixed_forever(self):
        create = idempotency_key("default", SALES, 1, "create", None, created().reference)
        rename = idempotency_key("default", SALES, 1, "rename", AUTH_ID, Reference("/hr", "renamed-2", "any"))

        assert create == "fd3a67c1-7208-5120-9a64-922ab42d4aac"
        assert rename == "7df14a0d-1ff8-5562-9811-a9ea36eafb1c"
        assert uuid.UUID(create).version == 5

    def test_a_key_depends_on_each_part(self):
        parts = [
            ("default", SALES, 1, "create", None, EVENT),
            ("hr", SALES, 1, "create", None, EVENT),
            ("default", Department("other", "sales"), 1, "create", None, EVENT),
            ("default", Department("acme", "other"), 1, "create", None, EVENT),
            ("default", SALES, 2, "create", None, EVENT),
            ("default", SALES, 1, "rename", None, EVENT),
            ("default", SALES, 1, "create", AUTH_ID, EVENT),
            ("default", SALES, 1, "create", "null", EVENT),
            ("default", SALES, 1, "create", None, EVENT._replace(source="/crm")),
            ("default", SALES, 1, "create", None, EVENT._replace(id="created-2")),
        ]

        assert len({idempotency_key(*each) for each in parts}) == len(parts)

    def test_a_key_ignores_the_spelling_of_the_type(self):
        spelled = EVENT._replace(type="com.example.hr.department.created")

        assert idempotency_key("default", SALES, 1, "create", None, spelled) == idempotency_key(
            "default", SALES, 1, "create", None, EVENT
        )


class TestTemplate:
    def test_the_default_template(self):
        assert NameTemplate().render("Sales", TAG) == "Sales [DD9K4N194E]"

    @pytest.mark.parametrize(
        ("length", "sent"),
        [(46, "x" * 46 + f" [{TAG}]"), (47, "x" * 47 + f" [{TAG}]"), (48, "x" * 47 + f" [{TAG}]")],
    )
    def test_a_long_name_is_cut_to_the_exact_length(self, length, sent):
        assert NameTemplate().render("x" * length, TAG) == sent

    def test_a_cut_name_has_no_trailing_blank(self):
        assert NameTemplate("{name} [{tag}]", 20).render("Sales & Marketing", TAG) == f"Sales & [{TAG}]"
        assert NameTemplate("{name} [{tag}]", 19).render("Sales & Marketing", TAG) == f"Sales [{TAG}]"

    @pytest.mark.parametrize("name", ["部" * 100, "🏢" * 100, "é" * 100])
    def test_length_is_counted_in_characters_not_bytes(self, name):
        assert NameTemplate().render(name, TAG) == f"{name[:47]} [{TAG}]"
        assert len(NameTemplate().render(name, TAG)) == 60

    @pytest.mark.parametrize("name", ["{tag}", "{name}", "{0}", "{", "%s"])
    def test_braces_in_a_name_are_literal(self, name):
        assert NameTemplate().render(name, TAG) == f"{name} [{TAG}]"

    @given(templates, names)
    def test_every_rendered_name_fits_and_has_its_tag(self, template, name):
        sent = template.render(name, TAG)

        assert len(sent) <= template.longest
        assert TAG in sent

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{name}",
            "{name} {name} {tag}",
            "{name} {tag} {tag}",
            "{name} {tag} {owner}",
            "{name} {tag} {}",
            "{name} {tag} {0}",
            "{name} {tag} {",
            "{name} {tag} }",
            "{{name}} {tag}",
            "{{x}} {name} {tag}",
            "{name!r} {tag}",
            "{name:20} {tag}",
            "{name} {tag:>12}",
            "{name.real} {tag}",
            "{name[0]} {tag}",
            "{name {tag}}",
            "}name{ {tag}",
        ],
    )
    def test_an_invalid_template_is_refused(self, text):
        with pytest.raises(ValueError, match=r"must hold \{tag\} once"):
            NameTemplate(text, 200)

    @pytest.mark.parametrize(("text", "least"), [("{name} [{tag}]", 14), ("{name}{tag}", 11)])
    def test_a_template_without_room_for_a_name_is_refused(self, text, least):
        assert NameTemplate(text, least).render("Sales", TAG) in {f"S [{TAG}]", f"S{TAG}"}
        with pytest.raises(ValueError, match=f"leaves no room for a name within {least - 1} characters"):
            NameTemplate(text, least - 1)


class TestBears:
    @given(templates, names)
    def test_every_rendered_name_bears_its_tag(self, template, name):
        assert template.bears(template.render(name, TAG), TAG)

    @given(templates, names)
    def test_no_rendered_name_bears_another_tag(self, template, name):
        assert not template.bears(template.render(name, TAG), OTHER_TAG)

    @pytest.mark.parametrize("name", [f"Sales [{TAG}]", f"[{TAG}]", TAG, f"{TAG} Sales", f"Sales [{TAG}] "])
    def test_a_name_cannot_fake_the_tag_of_another_department(self, name):
        assert not NameTemplate().bears(NameTemplate().render(name, OTHER_TAG), TAG)

    @pytest.mark.parametrize(
        "shown",
        [
            "",
            "Sales",
            TAG,
            f"[{TAG}]",
            f"Sales {TAG}",
            f"Sales[{TAG}]",
            f"Sales [{TAG}",
            f"Sales [{TAG}] ",
            f"Sales [{TAG}]\n",
            f"Sales [{TAG}] (old)",
            f"[{TAG}] Sales",
            f"Sales [{TAG.lower()}]",
            f"Sales [{TAG}0]",
            f"Sales [0{TAG}]",
        ],
    )
    def test_a_misplaced_tag_does_not_count(self, shown):
        assert not NameTemplate().bears(shown, TAG)

    @pytest.mark.parametrize(
        "name", ["", " ", "Sales\nand more", "Sales\x00", "[", "x" * 300, f"[{OTHER_TAG}]"]
    )
    def test_any_text_may_precede_the_tag(self, name):
        assert NameTemplate().bears(f"{name} [{TAG}]", TAG)

    def test_regex_characters_in_a_template_are_literal(self):
        template = NameTemplate(".* {name} ({tag})?")

        assert template.bears(f".* Sales ({TAG})?", TAG)
        assert not template.bears(f"xx Sales {TAG}", TAG)


class TestTagIn:
    @given(templates, names)
    def test_the_tag_of_every_rendered_name_is_found(self, template, name):
        assert template.tag_in(template.render(name, TAG)) == TAG

    @pytest.mark.parametrize("tag", [TAG, OTHER_TAG, "0" * 10, "Z" * 10])
    def test_any_valid_tag_is_found(self, tag):
        assert NameTemplate().tag_in(f"Sales [{tag}]") == tag

    def test_of_two_tags_the_correctly_placed_one_counts(self):
        assert NameTemplate().tag_in(f"Sales [{OTHER_TAG}] [{TAG}]") == TAG
        assert NameTemplate("[{tag}] {name}").tag_in(f"[{TAG}] [{OTHER_TAG}]") == TAG

    @pytest.mark.parametrize(
        "shown",
        [
            "",
            "Sales",
            TAG,
            f"Sales {TAG}",
            f"Sales [{TAG}] (old)",
            f"Sales [{TAG.lower()}]",
            f"Sales [{TAG}0]",
            f"Sales [{TAG[1:]}]",
            *(f"Sales [{TAG[1:]}{strange}]" for strange in "ILOUé٣ ]"),
        ],
    )
    def test_an_invalid_or_misplaced_tag_is_not_found(self, shown):
        assert NameTemplate().tag_in(shown) is None


class TestNameIn:
    @given(templates, names)
    def test_the_name_of_a_rendered_name_has_no_tag(self, template, name):
        back = template.name_in(template.render(name, TAG))

        assert name.startswith(back)
        assert template.render(back, TAG) == template.render(name, TAG)

    def test_a_name_without_a_tag_is_returned_unchanged(self):
        assert NameTemplate().name_in("Sales (by hand)") == "Sales (by hand)"


class TestKeptNames:
    ours = Names("default", NameTemplate())

    def test_a_new_name_is_sent_without_a_tag(self):
        entry = an_entry(keeps_name=True)

        assert self.ours.sent("Marketing", entry) == "Marketing"
        assert self.ours.sent("Marketing " * 9, entry) == ("Marketing " * 6)[:60].rstrip()

    def test_a_name_that_reads_as_a_tag_is_sent_with_our_own(self):
        assert (
            self.ours.sent(f"Sales [{OTHER_TAG}]", an_entry(keeps_name=True))
            == f"Sales [{OTHER_TAG}] [{TAG}]"
        )

    @given(templates, names, names)
    def test_no_name_without_a_tag_fakes_one(self, template, before, after):
        sent = Names("default", template).sent(f"{before}{OTHER_TAG}{after}", an_entry(keeps_name=True))

        assert template.tag_in(sent) in {None, TAG}

    def test_the_name_on_record_is_the_kept_one_until_it_is_renamed(self):
        assert self.ours.on_record(an_entry(keeps_name=True, kept_name="EU 7")) == "EU 7"
        assert self.ours.on_record(an_entry(keeps_name=True)) == "Sales"
        assert self.ours.on_record(an_entry()) == f"Sales [{TAG}]"

    def test_any_name_may_be_that_of_a_subaccount_that_keeps_its_name(self):
        assert self.ours.bears_ours("EU 7", an_entry(keeps_name=True))
        assert not self.ours.bears_ours("EU 7", an_entry())
        assert self.ours.bears_ours(f"EU 7 [{TAG}]", an_entry())
