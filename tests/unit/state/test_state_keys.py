"""Names of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.interfaces import INBOX, Section
from a2a_zmq.state import keys

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


def all_keys(distributor_id: str) -> list[str]:
    sections = keys.sections(distributor_id)
    return [
        *(keys.header(section) for section in sections),
        *(keys.results(section, number) for section in sections for number in (1, 27)),
        keys.tasks(distributor_id),
        keys.dead(distributor_id),
        keys.letters(distributor_id),
        keys.history(distributor_id),
        keys.lease(sections[0]),
    ]


def test_the_specifications_key_is_the_distributors_header() -> None:
    assert keys.header(Section("distributor-1", "distributor")) == "shared:distributor:distributor-1"
    assert keys.lease(Section("d", "distributor")) == "lease:{shared:distributor:d}"
    assert keys.header(Section("d", "coordinator")) == "coordinator:{shared:distributor:d}"
    assert keys.header(Section(INBOX, "coordinator")) == "shared:coordinator"
    assert keys.events("d") == "events:{shared:distributor:d}"


@given(distributor_id=st.one_of(st.just(INBOX), IDS))
def test_all_keys_of_a_distributor_share_a_hash_tag_and_are_classified(distributor_id: str) -> None:
    names = all_keys(distributor_id)
    assert len(set(names)) == len(names)
    for name in names:
        kind = keys.classify(name)
        assert kind is not None
        tag = name.partition("{")[2].partition("}")[0] or name
        assert tag == keys.base(distributor_id)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "shared:distributor:",
        "shared:distributor:a:b",
        "tasks:{shared:distributor:d}:1",
        "letters:{shared:distributor:d}:1",
        "results:{shared:distributor:d}",
        "results:{shared:distributor:d}:x",
        "lease:shared:distributor:d",
        "events:{shared:distributor:d}",
        "somebody:else",
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert keys.classify(name) is None


def test_every_kind_says_why_it_is_bounded() -> None:
    assert len({kind.name for kind in keys.KEY_CLASSES}) == len(keys.KEY_CLASSES)
    assert all(kind.holds for kind in keys.KEY_CLASSES)
