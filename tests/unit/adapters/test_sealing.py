"""Sealed data opens with its patient's key alone, and what was altered does not open."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sealing import MARK, TEXT_MARK, PlainSealer, Sealer, is_sealed
from oncotwin.domain.errors import ErasedError, StoreError
from oncotwin.testing.key_store_conformance import HandClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sealer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealer]:
    """A sealer over a key store in a file."""
    sealer = Sealer(open_key_store(f"sqlite:///{tmp_path_factory.mktemp('keys')}/keys.sqlite"))
    yield sealer
    sealer.close()


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Sealer]:
    """A sealer whose keys a test may destroy."""
    sealer = Sealer(open_key_store(f"sqlite:///{tmp_path}/keys.sqlite"))
    yield sealer
    sealer.close()


@given(data=st.binary(max_size=2_000), twin_id=st.sampled_from(["", "north/p1", "north/p2"]))
def test_what_is_sealed_opens_again(sealer: Sealer, data: bytes, twin_id: str) -> None:
    sealed = sealer.seal(twin_id, data)
    assert is_sealed(sealed)
    assert len(sealed) == len(data) + 36
    assert sealer.unseal(twin_id, sealed) == data


@given(text=st.text(max_size=300))
def test_sealed_text_opens_again(sealer: Sealer, text: str) -> None:
    sealed = sealer.seal_text("north/p1", text)
    assert sealed.startswith(TEXT_MARK)
    assert sealer.unseal_text("north/p1", sealed) == text


@given(data=st.binary(max_size=200).filter(lambda data: not is_sealed(data)))
def test_rows_of_earlier_releases_pass(sealer: Sealer, data: bytes) -> None:
    assert sealer.unseal("north/p1", data) == data
    assert PlainSealer().unseal("north/p1", data) == data


def test_no_two_seals_are_alike(sealer: Sealer) -> None:
    assert len({sealer.seal("north/p1", b"same") for _ in range(1_000)}) == 1_000


def test_every_flipped_bit_is_found(sealer: Sealer) -> None:
    sealed = sealer.seal("north/p1", b'{"value": 4.1}')
    for bit in range(len(MARK) * 8, len(sealed) * 8):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError, match="north/p1"):
            sealer.unseal("north/p1", bytes(altered))


@given(length=st.integers(len(MARK), 50))
def test_what_was_cut_short_is_found(sealer: Sealer, length: int) -> None:
    sealed = sealer.seal("north/p1", bytes(30))
    with pytest.raises(StoreError, match="north/p1"):
        sealer.unseal("north/p1", sealed[:length])


@given(tail=st.text(max_size=50))
def test_sealed_text_that_is_none_is_refused(sealer: Sealer, tail: str) -> None:
    with pytest.raises(StoreError, match="north/p1"):
        sealer.unseal_text("north/p1", TEXT_MARK + tail)


def test_another_patients_row_does_not_open(sealer: Sealer) -> None:
    sealed = sealer.seal("north/p1", b"x")
    sealer.seal("north/p2", b"y")
    for twin_id in ("north/p2", ""):
        sealer.prepare([twin_id])
        with pytest.raises(StoreError):
            sealer.unseal(twin_id, sealed)


def test_a_reader_with_another_key_store_says_so_and_makes_no_key(sealer: Sealer, short_lived: Sealer) -> None:
    sealed = sealer.seal("north/p1", b"x")
    with pytest.raises(StoreError, match="setting `keys`"):
        short_lived.unseal("north/p1", sealed)


def test_after_the_key_is_destroyed_nothing_opens_or_is_sealed(tmp_path: Path, short_lived: Sealer) -> None:
    sealed, text = short_lived.seal("north/p1", b"x"), short_lived.seal_text("north/p1", "x")
    other = short_lived.seal("north/p2", b"y")
    keys = open_key_store(f"sqlite:///{tmp_path}/keys.sqlite", monotonic=HandClock())
    keys.destroy("north/p1", NOW, "asked for")
    sealer = Sealer(keys)
    assert sealer.erased("north/p1") and not sealer.erased("north/p2")
    for act in (
        lambda: sealer.unseal("north/p1", sealed), lambda: sealer.unseal_text("north/p1", text),
        lambda: sealer.seal("north/p1", b"x"), lambda: sealer.commitment("north/p1", b"x"),
    ):
        with pytest.raises(ErasedError):
            act()
    assert sealer.unseal("north/p2", other) == b"y"
    assert sealer.unseal("north/p1", b"of an earlier release") == b"of an earlier release"
    sealer.close()


def test_a_commitment_binds_to_patient_and_data(sealer: Sealer, short_lived: Sealer) -> None:
    commitment = sealer.commitment("north/p1", b"4.1")
    assert len(commitment) == 32
    assert sealer.commitment("north/p1", b"4.1") == commitment
    others = {
        sealer.commitment("north/p1", b"4.2"), sealer.commitment("north/p2", b"4.1"),
        short_lived.commitment("north/p1", b"4.1"), PlainSealer().commitment("north/p1", b"4.1"),
    }
    assert len(others - {commitment}) == 4


def test_without_keys_data_stays_as_it_is_and_sealed_data_stays_closed(sealer: Sealer) -> None:
    plain = PlainSealer()
    assert plain.seal("north/p1", b"x") == b"x"
    assert plain.seal_text("north/p1", "x") == "x"
    assert not plain.erased("north/p1")
    with pytest.raises(StoreError, match="without keys"):
        plain.unseal("north/p1", sealer.seal("north/p1", b"x"))
    with pytest.raises(StoreError, match="without keys"):
        plain.unseal_text("north/p1", sealer.seal_text("north/p1", "x"))
    assert len(plain.commitment("north/p1", b"x")) == 32
