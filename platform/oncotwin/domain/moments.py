"""Times as they are written, and as we keep them.

RFC 3339 with a zone, or a calendar date alone. A date is an interval, not midnight: it is represented by the
start of that calendar day in UTC together with the precision flag "day". The calendar day is the one the
sender wrote, so that ``1995-06-27T00:30:00+02:00`` known to the day stays the 27th.
"""

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse_moment(written: object) -> tuple[datetime, bool]:
    """Read a timestamp or a date.

    Args:
        written: RFC 3339 text with a zone, ``YYYY-MM-DD``, or an aware datetime.
    Returns:
        (datetime in its own zone, whether only the day was given).
    Raises:
        ValueError: any other text, a date that does not exist, or a datetime without a zone.
    """
    if isinstance(written, str):
        return _parse_text(written)
    if isinstance(written, datetime):
        if written.tzinfo is None:
            raise ValueError("a time needs a zone")
        return written, False
    if isinstance(written, date):
        return datetime(written.year, written.month, written.day, tzinfo=UTC), True
    raise ValueError("a time is text: RFC 3339 with a zone, or a date")


@lru_cache(maxsize=4096)  # an event's times are often the same text, and so are those of one visit
def _parse_text(written: str) -> tuple[datetime, bool]:
    if _RFC3339.fullmatch(written):
        return datetime.fromisoformat(written.upper()), False
    if _DATE.fullmatch(written):
        return datetime.fromisoformat(written).replace(tzinfo=UTC), True
    raise ValueError("write a time as RFC 3339 with a zone (1995-06-27T08:30:00Z) or as a date (1995-06-27)")


def start_of_day(moment: datetime) -> datetime:
    """Return the start, in UTC, of the calendar day that `moment` shows in its own zone."""
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)


def to_utc(written: object) -> datetime:
    """Read a timestamp or a date and return it in UTC, a date as the start of its day.

    Raises:
        ValueError: see `parse_moment`; also a time that leaves the years 1 to 9999 when turned to UTC.
    """
    moment, _ = parse_moment(written)
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies outside the years 1 to 9999") from error


def place(time: object, precision: object) -> tuple[datetime, Literal["instant", "day"]]:
    """Return the UTC representation and the precision of a clinical time.

    Args:
        time: as for `parse_moment`.
        precision: "instant", "day", or None where the sender left it to the form of `time`.
    Raises:
        ValueError: not a time, or a date alone that claims to be an instant.
    """
    moment, only_date = parse_moment(time)
    if precision == "day" or (only_date and precision is None):
        return start_of_day(moment), "day"
    if only_date:
        raise ValueError("a date alone is no instant; give the time of day, or timeprecision 'day'")
    return to_utc(moment), "instant"


@lru_cache(maxsize=4096)
def write_moment(moment: datetime) -> str:
    """Write a UTC datetime as RFC 3339 with the shortest fraction of a second."""
    text = moment.isoformat()[:-6]
    return (text.rstrip("0") if "." in text else text) + "Z"


def _read(written: Any) -> datetime:
    return to_utc(written)


Moment = Annotated[
    datetime,
    BeforeValidator(_read),
    PlainSerializer(write_moment, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [{"format": "date-time"}, {"format": "date"}],
            "description": "RFC 3339 with a zone, or a date",
        }
    ),
]
"""A pydantic field that reads text or a datetime, keeps UTC and writes RFC 3339."""
