"""JSON read without mercy: what another reader could understand differently is refused.

The order matters: size before decoding, depth before parsing (so that no recursion limit is ever met), then
one parse that refuses duplicate keys and non-finite numbers, then one scan of the strings, which is skipped
for the common case of plain ASCII without escapes.
"""

import json
import math
import re
import unicodedata
from typing import Any

from oncotwin.domain.errors import EventError

MAX_BYTES = 64 * 1024
"""Largest event, attributes included."""

MAX_DEPTH = 16
"""Deepest nesting; the deepest event of the catalogue has 6."""

_SKIM_BYTES = 16 * MAX_BYTES
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FORBIDDEN_CATEGORIES = frozenset(("Cc", "Cs", "Zl", "Zp"))


def check_string(text: str, where: str) -> None:
    """Refuse text that is not NFC or holds control, surrogate, line-separating or bidirectional characters.

    Raises:
        EventError: with the code point concerned.
    """
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if character in _BIDIRECTIONAL or unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise EventError(
                "bad_character",
                f"a string holds U+{ord(character):04X}, a control or bidirectional character",
                where,
                "send the text without it",
            )
    if not unicodedata.is_normalized("NFC", text):
        raise EventError("not_nfc", "a string is not in Unicode form NFC", where, "normalise strings to NFC")


def loads(raw: bytes) -> Any:
    """Parse one JSON text.

    Args:
        raw: UTF-8, at most `MAX_BYTES`; white space around it is allowed.
    Returns:
        dict, list, str, int, float, bool or None.
    Raises:
        EventError: empty, too large, not UTF-8, not JSON, too deep, a duplicate key, a number that is not
            finite, or a string that `check_string` refuses.
    """
    if len(raw) > MAX_BYTES:
        raise EventError(
            "too_large",
            f"the event has {len(raw)} bytes, the bound is {MAX_BYTES}",
            "",
            "put large content in an array store and send a claim check",
        )
    if not raw or raw.isspace():
        raise EventError("empty_value", "the event has an empty value", "", "send the content; to retract, correct")
    if raw.startswith(_BYTE_ORDER_MARK):
        raise EventError("not_json", "a byte order mark stands before the JSON", "", "write UTF-8 without it")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EventError("not_utf8", f"not UTF-8 at byte {error.start}", "", "encode the event as UTF-8") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(text)
    try:
        value = _DECODER.decode(text)
    except EventError as error:
        if error.reason_code != "not_finite":
            raise
        raise EventError(error.reason_code, error.reason, _place_of_not_finite(skim(raw)), error.remedy) from None
    except (ValueError, RecursionError) as error:
        raise EventError("not_json", f"not JSON: {error}", "", "send one JSON object") from None
    if "\\" in text or not text.isascii():
        _check_strings(value, "")
    return value


def skim(raw: bytes) -> Any:
    """Parse what `loads` refuses as far as it can be read, to say whose it is and where it is wrong.

    Args:
        raw: any bytes.
    Returns:
        The parsed value, with numbers that may not be finite and the last of doubled keys; None where nothing can
        be read, or it is so large that reading it would be a burden.
    """
    if len(raw) > _SKIM_BYTES:
        return None
    try:
        text = raw.decode("utf-8-sig")
        _check_depth(text)
        return json.loads(text)
    except (ValueError, RecursionError, EventError):
        return None


def _place_of_not_finite(value: Any) -> str:
    """Return the path of the first number that is not finite, "" where there is none."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, float) and not math.isfinite(item):
                return str(key)
            if inner := _place_of_not_finite(item):
                return f"{key}{inner}" if inner.startswith("[") else f"{key}.{inner}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, float) and not math.isfinite(item):
                return f"[{index}]"
            if inner := _place_of_not_finite(item):
                return f"[{index}]{inner}" if inner.startswith("[") else f"[{index}].{inner}"
    return ""


def _check_depth(text: str) -> None:
    depth = 0
    for mark in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if mark in "[{" else -1
        if depth > MAX_DEPTH:
            raise EventError("too_deep", f"JSON nested deeper than {MAX_DEPTH}", "", "flatten the content")


def _check_strings(value: Any, where: str) -> None:
    if isinstance(value, str):
        check_string(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_string(key, where)
            _check_strings(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_strings(item, f"{where}[{index}]")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise EventError("duplicate_key", f"key {twice!r} stands twice in one object", twice, "send it once")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise EventError("not_finite", f"number {text} is not finite", "", "send a finite number, or no value")
    # Canonical JSON has one zero: what is read again must be what was read first. Of -0.0 and 0.0 the sum is 0.0.
    return number + 0.0


def _refuse_constant(text: str) -> float:
    raise EventError("not_finite", f"{text} is no JSON number", "", "send a finite number, or no value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)
