"""Signing keys: made once, private, and only those believed that were asked for."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from oncotwin.adapters.signing import SigningKeys, verify_signature
from oncotwin.domain.audit import INSTALLATION, AuditError

OTHER_KIND = X25519PrivateKey.generate()


def test_a_key_is_made_at_first_use_and_kept(tmp_path: Path) -> None:
    keys = SigningKeys(tmp_path)
    assert keys.owned() == {}
    signature = keys.sign("north", b"message")
    assert keys.verify(keys.own("north"), b"message", signature)
    assert not verify_signature(keys.own("north"), b"massage", signature)
    assert not verify_signature(keys.own("south"), b"message", signature)
    assert not verify_signature(b"no key", b"message", signature)
    assert SigningKeys(tmp_path).own("north") == keys.own("north")
    assert set(keys.owned()) == {"north", "south"}
    assert keys.own(INSTALLATION) in keys.trusted()[INSTALLATION]


def test_a_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    SigningKeys(tmp_path / "keys").own("north")
    (file,) = (tmp_path / "keys" / "signing").iterdir()
    assert file.name == "north.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_several_who_ask_first_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: SigningKeys(tmp_path).own("north"), range(32)))
    assert len(found) == 1
    assert [file.name for file in (tmp_path / "signing").iterdir()] == ["north.pem"]


def test_others_are_believed_once_their_key_was_given(tmp_path: Path) -> None:
    ours, theirs = SigningKeys(tmp_path / "ours"), SigningKeys(tmp_path / "theirs")
    ours.own("north")
    assert ours.trust("south", theirs.export("south")) == theirs.own("south")
    ours.trust("south", SigningKeys(tmp_path / "later").export("south"))
    assert ours.trusted()["north"] == {ours.own("north")}
    assert theirs.own("south") in ours.trusted()["south"]
    assert len(ours.trusted()["south"]) == 2
    assert set(ours.owned()) == {"north"}


@pytest.mark.parametrize("name", ["", "..", "../north", "a/b", "@else", "north\x00"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    keys = SigningKeys(tmp_path)
    with pytest.raises(AuditError, match="no institution's name"):
        keys.own(name)
    with pytest.raises(AuditError, match="no institution's name"):
        keys.trust(name, b"")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_key_is_refused_in_words(tmp_path: Path) -> None:
    keys = SigningKeys(tmp_path)
    keys.own("north")
    file = tmp_path / "signing" / "north.pem"
    file.write_bytes(b"no key")
    with pytest.raises(AuditError, match=r"signing key .*north\.pem cannot be read"):
        keys.sign("north", b"")
    file.write_bytes(OTHER_KIND.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(AuditError, match="no Ed25519 key"):
        keys.sign("north", b"")
    with pytest.raises(AuditError, match="the key of south cannot be read"):
        keys.trust("south", b"no key")
    pem = OTHER_KIND.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(AuditError, match="no Ed25519 key"):
        keys.trust("south", pem)
