"""The order of records, compared with a plain list, and the cost of a page of many records."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from worker.sandbox.collection import Collection


@dataclass(frozen=True)
class Item:
    key: str
    group: str | None = None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove"]), st.sampled_from("abcdef"), st.sampled_from(["x", "y", None])
    )
)


@given(STEPS, st.integers(0, 8), st.integers(1, 8))
def test_it_behaves_like_a_list(steps, offset, limit):
    collection: Collection[Item] = Collection(lambda item: item.key, lambda item: item.group)
    plain: list[Item] = []
    for step, key, group in steps:
        known = next((item for item in plain if item.key == key), None)
        if step == "put" and known:
            plain[plain.index(known)] = replace(known, group=group)
        elif step == "put":
            plain.append(Item(key, group))
        elif known:
            plain.remove(known)
        if step == "put":
            collection.put(Item(key, group))
        elif known:
            collection.remove(key)

    newest = plain[::-1]
    assert list(collection) == plain
    assert len(collection) == len(plain)
    assert collection.newest_first(offset, limit) == newest[offset : offset + limit]
    for group in ("x", "y", None):
        of_group = [item for item in newest if item.group == group]
        assert collection.count(group) == len(of_group)
        assert collection.of_group(group) == of_group
        assert collection.group_newest_first(group, offset, limit) == of_group[offset : offset + limit]


def test_a_page_of_100_000_records_reads_only_its_own():
    """Reads are counted, not timed: they do not grow with the number of records."""
    collection: Collection[Item] = Collection(lambda item: item.key)
    for number in range(100_000):
        collection.put(Item(str(number)))
    looked_at = []

    class Watched(dict):
        def __getitem__(self, key):
            looked_at.append(key)
            return super().__getitem__(key)

    collection._records = Watched(collection._records)
    page = collection.newest_first(99_980, 20)

    assert [item.key for item in page] == [str(number) for number in range(19, -1, -1)]
    assert len(looked_at) == 20
