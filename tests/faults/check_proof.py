"""Checks what `oncotwin audit prove` prints, with the standard library and `cryptography`, and nothing of oncotwin's.

python check_proof.py PUBLIC_KEY_HEX < proof.json
"""

import hashlib
import json
import sys
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def canonical(content: object) -> bytes:
    """RFC 8785, for the texts, whole numbers and ASCII names that proofs are made of."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check(proof: dict[str, Any], public_key: str) -> bool:
    """Whether the entry is in the tree whose root that key signed."""
    entry, signed, index = proof["entry"], proof["checkpoint"], proof["entry"]["seq"] - 1
    found, first, last = hashlib.sha256(b"\x00" + canonical(entry)).digest(), index, signed["size"] - 1
    for sibling in map(bytes.fromhex, proof["audit_path"]):
        if first % 2 or first == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while first % 2 == 0 and first:
                first, last = first // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        first, last = first // 2, last // 2
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(proof["signature"]), canonical(signed))
    except InvalidSignature:
        return False
    return bool(last == 0 and found.hex() == signed["root"] and entry["institution"] == signed["institution"])


if __name__ == "__main__":
    sys.exit(not check(json.load(sys.stdin), sys.argv[1]))
