"""Audit entries, checkpoints and the pass that verifies them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.check_proof import check
from tests.unit.domain.audit_chains import NORTH, OWN, PUBLIC, chain, commit, drafts, held, judge, key_of, signed

from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import (
    GENESIS,
    INSTALLATION,
    AuditDraft,
    AuditEntry,
    AuditError,
    Head,
    entry_json,
    extend,
    from_us,
    is_chain,
    to_us,
)
from oncotwin.domain.audit_verify import verify_chain
from oncotwin.domain.checkpoint import checkpoint_of, inclusion_proof, read_checkpoint, signed_checkpoint_of
from oncotwin.domain.merkle import Tree, leaf_hash
from oncotwin.domain.moments import write_moment

moments = st.integers(to_us(datetime(1, 1, 1, tzinfo=UTC)), to_us(datetime(9999, 12, 31, tzinfo=UTC)))
texts = st.text(st.characters(codec="utf-8"), max_size=30)
hashes = st.binary(min_size=32, max_size=32)


@given(
    st.text("abcXYZ019._-@", max_size=10), st.integers(1, 2**53 - 1), texts, texts, moments,
    st.dictionaries(texts, texts | st.integers(-(2**53) + 1, 2**53 - 1), max_size=3), hashes,
)
def test_an_entry_is_canonical_json(
    institution: str, seq: int, kind: str, ref: str, at_us: int, content: dict[str, Any], previous: bytes
) -> None:
    written = entry_json(institution, seq, kind, ref, at_us, rfc8785.dumps(content), previous)
    assert written == rfc8785.dumps(
        {
            "at": write_moment(from_us(at_us)), "content": content, "institution": institution, "kind": kind,
            "previous": previous.hex(), "ref": ref, "seq": seq,
        }
    )


@given(texts, texts, st.integers(0, 2**53 - 1), st.binary(max_size=40))
def test_contents_written_by_hand_are_canonical(version: str, name: str, number: int, bound: bytes) -> None:
    tag = audit_drafts.twin_tag(commit, name)
    for draft in (
        audit_drafts.estimate(NORTH, tag, number, version, bound),
        audit_drafts.event_accepted(NORTH, name, version, "lab.result", tag, bound),
    ):
        assert rfc8785.dumps(json.loads(draft.content)) == draft.content


def test_entries_are_chained_from_the_first_on() -> None:
    entries = chain(4)
    assert [entry.seq for entry in entries] == [1, 2, 3, 4]
    assert [entry.previous for entry in entries] == [GENESIS, *(entry.hash for entry in entries[:3])]
    for entry in entries:
        assert entry.hash == sha256(b"\x00" + entry.to_json()).digest() == leaf_hash(entry.to_json())


def test_many_drafts_at_once_make_the_same_chain_as_one_after_the_other() -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    together = extend(NORTH, Head(), drafts(6), at)
    apart: list[AuditEntry] = []
    for draft in drafts(6):
        apart += extend(NORTH, Head(len(apart), apart[-1].hash) if apart else Head(), [draft], at)
    assert together == apart


def test_an_entry_of_another_institution_is_refused() -> None:
    with pytest.raises(ValueError, match="an entry of 'south' was given to the chain of 'north'"):
        extend(NORTH, Head(), [AuditDraft("south", "read", "", b"{}")], datetime(2024, 1, 1, tzinfo=UTC))


def test_whose_chain_tells_of_what() -> None:
    assert audit_drafts.institution_of("north/p1") == NORTH
    assert audit_drafts.institution_of(None) == audit_drafts.institution_of("/p1") == INSTALLATION
    assert is_chain(INSTALLATION)
    assert is_chain(NORTH)
    assert not is_chain("..")
    assert not is_chain("@else")


def test_no_entry_shows_a_patient_or_a_hash_that_could_be_guessed() -> None:
    for i, draft in enumerate(drafts(12)):
        written = draft.content + draft.ref.encode()
        assert f"patient-{i % 3}".encode() not in written
        assert sha256(str(i).encode()).hexdigest().encode() not in written


def test_the_word_on_a_moved_event_names_neither_patient() -> None:
    event_id = "result-1#moved-12-from-north/patient-1-to-south/patient-2"
    draft = audit_drafts.event_accepted("south", "urn:north:lab", event_id, "record.moved", "00", b"")
    assert draft.ref == "urn:north:lab result-1#moved-12"
    same = audit_drafts.event_accepted("south", "urn:north:lab", event_id, "lab.result", "00", b"")
    assert same.ref == f"urn:north:lab {event_id}"


def test_a_whole_chain_verifies() -> None:
    entries = chain(20)
    verdict = judge(list(entries), held(signed(entries, 8)), held(signed(entries, 20)))
    assert verdict.flaws == ()
    assert (verdict.n_entries, verdict.head, verdict.covered, verdict.n_checkpoints) == (20, entries[-1].hash, 20, 2)


def test_an_empty_chain_verifies_unless_a_checkpoint_says_otherwise() -> None:
    assert judge([]).flaws == ()
    (flaw,) = judge([], held(signed(chain(5), 5))).flaws
    assert (flaw.problem, flaw.first, flaw.last) == ("cut off", 1, 5)


def test_the_store_must_hold_the_checkpoints_that_its_chain_tells_of() -> None:
    entries = chain(8)
    told = signed(entries, 8)
    at = datetime(2024, 6, 1, tzinfo=UTC)
    record = audit_drafts.checkpoint(NORTH, 8, told.checkpoint.root, PUBLIC)
    entries += extend(NORTH, Head(8, entries[-1].hash), [record], at)
    rows = list(entries)
    assert verify_chain(NORTH, rows, [told.checkpoint], {8}).flaws == ()
    (flaw,) = verify_chain(NORTH, rows, [], set()).flaws
    assert (flaw.problem, flaw.first) == ("checkpoint", 8)
    assert "does not hold any more" in flaw.message


@pytest.mark.parametrize("size", range(1, 34))
def test_every_proof_convinces_a_stranger(size: int) -> None:
    entries = chain(size)
    checkpoint = signed(entries, size)
    tree = Tree(lambda begin, end: (one.hash for one in entries[begin:end]))
    for entry in entries:
        proof = json.loads(json.dumps(inclusion_proof(entry, tree.inclusion(entry.seq - 1, size), checkpoint)))
        assert check(proof, PUBLIC.hex())
        assert proof["leaf_hash"] == entry.hash.hex()
        assert not check(proof, key_of("somebody else").public_key().public_bytes_raw().hex())
        assert not check({**proof, "entry": {**proof["entry"], "ref": "another"}}, PUBLIC.hex())
        assert not check({**proof, "checkpoint": {**proof["checkpoint"], "size": size + 1}}, PUBLIC.hex())


def test_a_checkpoint_survives_writing_and_reading() -> None:
    one = signed(chain(11), 11)
    assert read_checkpoint(one.checkpoint.to_json()) == one.checkpoint
    assert signed_checkpoint_of(json.loads(json.dumps(one.to_dict()))) == one
    assert one.checkpoint.frontier().root() == one.checkpoint.root


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "oncotwin-checkpoint-v2"}, "format"),
        ({"institution": "../north"}, "names no institution"),
        ({"size": 0}, "whole number"),
        ({"size": True}, "whole number"),
        ({"size": 12}, "must have 2 peaks"),
        ({"peaks": None}, "peaks"),
        ({"at": "2024-05-17"}, "RFC 3339"),
        ({"at": "yesterday"}, "RFC 3339"),
        ({"at": 5}, "RFC 3339"),
        ({"head": "AA" * 32}, "head must be 64 lower-case"),
        ({"key": "00"}, "key must be 64 lower-case"),
        ({"root": "00" * 32}, "do not fold"),
        ({"extra": 1}, "exactly the fields"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(change: dict[str, Any], reason: str) -> None:
    content = signed(chain(11), 11).checkpoint.to_dict()
    with pytest.raises(AuditError, match=reason):
        checkpoint_of({**content, **change})


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"format":1'])
def test_bytes_that_are_no_checkpoint_are_refused(body: bytes) -> None:
    with pytest.raises(AuditError):
        read_checkpoint(body)
    with pytest.raises(AuditError):
        signed_checkpoint_of(body)


def test_a_checkpoint_in_another_spelling_is_refused() -> None:
    body = signed(chain(3), 3).checkpoint.to_json()
    with pytest.raises(AuditError, match="canonical"):
        read_checkpoint(body.replace(b'"size":3', b'"size": 3'))


def test_a_forged_checkpoint_is_not_believed() -> None:
    entries = chain(9)
    rows = list(entries)
    other = key_of("somebody else")
    for bad, reason in (
        (held(signed(entries, 9, other)), "none that is trusted"),
        (replace(held(signed(entries, 9)), signature=other.sign(b"")), "not that of its key"),
        (replace(held(signed(entries, 9)), signature=b"short"), "not 64 bytes"),
        (replace(held(signed(entries, 9)), size=8), "filed under another"),
        (replace(held(signed(entries, 9)), institution="south"), "filed under another"),
        (replace(held(signed(entries, 9)), body=None), "no bytes"),
    ):
        (flaw,) = judge(rows, bad).flaws
        assert flaw.problem == "checkpoint"
        assert reason in flaw.message
    forged = signed(chain(12)[3:], 9, OWN)
    (flaw,) = judge(rows, held(signed(entries, 4)), held(forged)).flaws
    assert (flaw.problem, flaw.first, flaw.last) == ("rewritten", 5, 9)
