"""Names of institutions, patients, twins and events, and which characters they may hold.

A pseudonym ends up in keys, file names and actor names, so its alphabet is narrow and it can never be a
path component with a meaning of its own.
"""

import re
from functools import lru_cache

from oncotwin.domain.errors import EventError

TwinId = str
"""``<institution>/<patient>``: one twin for each patient of each institution."""

EventKey = tuple[str, str]
"""``(source, id)``: the idempotency key of an event."""

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""Characters of an institution or a patient pseudonym; "." and ".." are refused on top of it."""

PSEUDONYMS = "use two pseudonyms of 1 to 64 of the characters A-Z a-z 0-9 . _ - with one slash between"
"""What to do about a subject that is none."""

TWIN_ID_PATTERN = rf"^{NAME_PATTERN}/{NAME_PATTERN}$"

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether `text` may name an institution or a patient."""
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


def twin_id(institution: str, patient: str) -> TwinId:
    """Join an institution and a patient's pseudonym.

    Raises:
        EventError: either holds a character outside ``A-Z a-z 0-9 . _ -``, is empty or over 64 characters.
    """
    for what, name in (("institution", institution), ("patient", patient)):
        if not is_name(name):
            raise EventError(
                "bad_subject",
                f"{what} {name!r} is not a pseudonym",
                "subject",
                "use 1 to 64 of the characters A-Z a-z 0-9 . _ -",
            )
    return f"{institution}/{patient}"


@lru_cache(maxsize=16_384)
def split_twin_id(text: TwinId) -> tuple[str, str]:
    """Return (institution, patient) of a twin id or an event's subject.

    Raises:
        EventError: not two pseudonyms with one slash between them.
    """
    institution, slash, patient = text.partition("/")
    if not slash or not is_name(institution) or not is_name(patient):
        raise EventError(
            "bad_subject",
            f"subject {text!r} is not '<institution>/<patient>'",
            "subject",
            PSEUDONYMS,
        )
    return institution, patient
