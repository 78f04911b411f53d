"""What every key store must do, whatever keeps it; run by tests/conformance over SQLite and PostgreSQL.

A plug-in's tests subclass `KeyStoreConformance` and provide two fixtures: `open_keys`, which opens one and the same
fresh key store anew at each call, as another process would, and `clock`, the clock that each of them is given.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

import pytest

from oncotwin.domain.errors import ConfigurationError, ErasedError, StoreError
from oncotwin.ports.key_store import FORGET_S, INSTALLATION, KEY_BYTES, KeyStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)


class HandClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        """The present second."""
        return self.seconds


class OpenKeys(Protocol):
    """Opens the test's key store; each call gives an object of its own."""

    def __call__(self) -> KeyStore:
        """Open it."""
        ...


class KeyStoreConformance:
    """Laws of the port `oncotwin.ports.key_store.KeyStore`."""

    def test_a_key_is_made_once_and_kept(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        key = keys.key("north/p1")
        assert len(key) == KEY_BYTES
        assert keys.key("north/p1") == key
        keys.close()
        assert open_keys().key("north/p1") == key

    def test_every_patient_and_the_installation_have_keys_of_their_own(self, open_keys: OpenKeys) -> None:
        names = [INSTALLATION, *(f"north/p{i}" for i in range(50)), "south/p1"]
        keys = open_keys()
        assert len({keys.key(name) for name in names}) == len(names)

    def test_many_keys_at_once_are_the_same_as_one_by_one(self, open_keys: OpenKeys) -> None:
        one = open_keys()
        first = one.key("north/p3")
        names = [f"north/p{i}" for i in range(7_000)]
        many = open_keys().keys([*names, *names])
        assert list(many) == names
        assert many["north/p3"] == first
        assert one.keys(names) == many
        assert open_keys().keys([]) == {}

    def test_none_is_made_for_a_reader(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        with pytest.raises(StoreError, match="north/p1"):
            keys.key("north/p1", make=False)
        made = open_keys().key("north/p1")
        assert keys.key("north/p1", make=False) == made

    def test_all_who_ask_first_at_once_are_given_the_same_key(self, open_keys: OpenKeys) -> None:
        stores = [open_keys() for _ in range(6)]
        names = [f"north/p{i}" for i in range(20)]

        def ask(turn: int) -> list[bytes]:
            own = stores[turn]
            return [own.keys(names)[name] if turn % 2 else own.key(name) for name in names]

        with ThreadPoolExecutor(len(stores)) as pool:
            answers = list(pool.map(ask, range(len(stores))))
        assert all(answer == answers[0] for answer in answers)
        assert len(set(answers[0])) == len(names)

    def test_a_destroyed_key_is_gone_and_its_record_stays(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        kept = keys.key("north/p2")
        keys.key("north/p1")
        assert keys.destroy("north/p1", NOW, "asked for")
        for store in (keys, open_keys()):
            with pytest.raises(ErasedError, match="north/p1"):
                store.key("north/p1")
            with pytest.raises(ErasedError):
                store.key("north/p1", make=False)
            assert store.keys(["north/p1", "north/p2"]) == {"north/p2": kept}
            assert store.destroyed() == {"north/p1": NOW}

    def test_destroying_again_changes_nothing(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        assert keys.destroy("north/p1", NOW, "asked for")
        assert not keys.destroy("north/p1", NOW.replace(year=2027), "asked again")
        assert not open_keys().destroy("north/p1", NOW.replace(year=2028), "and again")
        assert open_keys().destroyed() == {"north/p1": NOW}

    def test_a_key_that_was_never_made_can_be_destroyed(self, open_keys: OpenKeys) -> None:
        assert open_keys().destroy("north/p9", NOW, "asked for")
        with pytest.raises(ErasedError):
            open_keys().key("north/p9")

    def test_others_forget_a_destroyed_key_within_the_bound(self, open_keys: OpenKeys, clock: HandClock) -> None:
        other = open_keys()
        other.key("north/p1")
        assert open_keys().destroy("north/p1", NOW, "asked for")
        clock.seconds += FORGET_S
        with pytest.raises(ErasedError):
            other.key("north/p1")
        assert "north/p1" in other.destroyed()

    def test_a_key_is_not_made_anew_while_it_is_destroyed(self, open_keys: OpenKeys) -> None:
        names = [f"north/p{i}" for i in range(20)]
        destroyer, asker = open_keys(), open_keys()

        def ask() -> None:
            for name in names:
                try:
                    asker.key(name)
                except ErasedError:
                    continue

        with ThreadPoolExecutor(2) as pool:
            asking = pool.submit(ask)
            for name in names:
                destroyer.destroy(name, NOW, "asked for")
            asking.result()
        fresh = open_keys()
        assert set(fresh.destroyed()) == set(names)
        assert fresh.keys(names) == {}

    def test_the_installations_key_cannot_be_destroyed(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        key = keys.key(INSTALLATION)
        with pytest.raises(ConfigurationError):
            keys.destroy(INSTALLATION, NOW, "by mistake")
        assert open_keys().key(INSTALLATION) == key

    def test_closing_twice_is_harmless(self, open_keys: OpenKeys) -> None:
        keys = open_keys()
        keys.key("north/p1")
        keys.close()
        keys.close()
