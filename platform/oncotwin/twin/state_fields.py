"""The header of a state's bytes, read without trust: every value is looked at before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast, get_args

from oncotwin.domain.observation import Censoring
from oncotwin.domain.treatment import Action, PlannedItem
from oncotwin.models.therapy import Agent, Therapy
from oncotwin.twin.journal import FoldKey
from oncotwin.twin.timeline import Cursor

_MOST_COMPONENTS = 100_000
_WHOLE = 1 << 64
_ACTIONS: tuple[str, ...] = get_args(Action)
_CENSORING: tuple[str, ...] = get_args(Censoring)


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of the header; whoever asks for a field says of what kind it is.

    Every method raises ValueError or KeyError where the field is something else, or is not there.
    """

    content: Any
    where: str

    def _get(self, name: str) -> Any:
        if not isinstance(self.content, dict):
            raise ValueError(f"{self.where} is no object")
        return self.content[name]

    def _no(self, name: str, kind: str) -> ValueError:
        return ValueError(f"{self.where}.{name} is no {kind}")

    def fields(self, name: str) -> Fields:
        """An object."""
        return Fields(self.mapping(name), f"{self.where}.{name}")

    def mapping(self, name: str) -> dict[str, Any]:
        """An object as it is."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self._no(name, "object")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self._no(name, "text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._no(name, "list of texts")
        return tuple(value)

    def number(self, name: str) -> float:
        """A finite number; numbers in JSON are."""
        value = self._get(name)
        if type(value) not in (int, float):
            raise self._no(name, "number")
        return float(value)

    def time(self, name: str) -> float:
        """A finite number, or an infinity as a word."""
        value = self._get(name)
        return float(value) if value in ("inf", "-inf") else self.number(name)

    def maybe_number(self, name: str) -> float | None:
        """A number or null."""
        return None if self._get(name) is None else self.number(name)

    def whole(self, name: str, least: int, *, default: int | None = None) -> int:
        """A whole number of at most 64 bits."""
        if default is not None and name not in self.content:
            return default
        value = self._get(name)
        if type(value) is not int or not least <= value < _WHOLE:
            raise self._no(name, "whole number in its bounds")
        return value

    def wholes(self, name: str, least: int) -> tuple[int, ...]:
        """A list of whole numbers; an empty one where it is not there."""
        if name not in self.content:
            return ()
        value = self._get(name)
        if not isinstance(value, list) or not all(type(one) is int and least <= one < _WHOLE for one in value):
            raise self._no(name, "list of whole numbers in their bounds")
        return tuple(value)

    def truth(self, name: str) -> bool:
        """A truth value."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._no(name, "truth value")
        return value

    def moment(self, name: str) -> datetime:
        """An instant with its zone, as UTC."""
        return _moment(self.text(name), f"{self.where}.{name}")

    def rows(self, name: str, n_values: int) -> list[list[Any]]:
        """A list of lists of so many values."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(row, list) and len(row) == n_values for row in value):
            raise self._no(name, f"list of rows of {n_values}")
        return value

    def objects(self, name: str) -> list[Fields]:
        """A list of objects."""
        value = self._get(name)
        if not isinstance(value, list):
            raise self._no(name, "list")
        return [Fields(one, f"{self.where}.{name}") for one in value]

    def exactly(self, *names: str) -> None:
        """Refuse an object with other fields than these."""
        if not isinstance(self.content, dict) or self.content.keys() != set(names):
            raise ValueError(f"{self.where} has not the fields {', '.join(names)}")


def _moment(text: str, where: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{where} has no zone")
    return found.astimezone(UTC)


def read_cursor(content: Fields) -> Cursor:
    """Therapy, plan and targets."""
    therapy = content.fields("therapy")
    return Cursor(
        therapy=Therapy(
            tuple(_agent(one) for one in therapy.objects("agents")), therapy.whole("line", 0),
            therapy.maybe_number("switched"), therapy.whole("n_episodes", 0),
        ),
        plan=tuple(_planned(one) for one in content.objects("plan")),
        planned_at=content.maybe_number("planned_at"),
        targets=content.texts("targets"),
        started=content.truth("started"),
        time=content.time("time"),
    )


def _agent(content: Fields) -> Agent:
    content.exactly("name", "since", "until", "dose", "unit", "course")
    return Agent(
        content.text("name"), content.number("since"), content.maybe_number("until"), content.maybe_number("dose"),
        content.text("unit"), content.truth("course"),
    )


def _planned(content: Fields) -> PlannedItem:
    content.exactly("agent", "action", "dose", "unit", "start", "stop")
    if (action := content.text("action")) not in _ACTIONS:
        raise ValueError(f"{content.where}.action is {action!r}")
    return PlannedItem(
        content.text("agent"), cast("Action", action), content.maybe_number("dose"),
        None if content.content["unit"] is None else content.text("unit"), content.moment("start"),
        None if content.content["stop"] is None else content.moment("stop"),
    )


def read_fold_key(header: Fields) -> FoldKey | None:
    """Clinical time, source and id of the last event folded."""
    if header.content["last"] is None:
        return None
    time, source, event_id = header.texts("last")
    return (_moment(time, "last"), source, event_id)


def read_last_observed(header: Fields) -> dict[tuple[str, str], tuple[float, float | None, str]]:
    """Time, value and censoring of the last observation of each series."""
    found = {}
    for row in header.rows("last_observed", 5):
        one = Fields(dict(zip(("observable", "target", "time", "value", "censoring"), row, strict=True)), "observed")
        if (censoring := one.text("censoring")) not in _CENSORING:
            raise ValueError(f"last_observed: censoring is {censoring!r}")
        found[one.text("observable"), one.text("target")] = (
            one.number("time"), one.maybe_number("value"), censoring
        )
    return found


def read_series(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows of running statistics: names, then numbers, with a list of pairs of numbers as the last but three."""
    kept = []
    for row in rows:
        observable, target, *numbers = row
        squares, spread = numbers[7], numbers[8]
        if not isinstance(observable, str) or not isinstance(target, str) or not isinstance(squares, list):
            raise ValueError("drift: a series has no name or no window")
        pairs = all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in squares)
        plain = [*numbers[:7], *numbers[9:], *([] if spread is None else [spread])]
        counts = (numbers[0], numbers[3], numbers[6], numbers[10])
        if not pairs or not all(map(_is_number, plain)) or not all(type(one) is int and one >= 0 for one in counts):
            raise ValueError(f"drift: the series of {observable} holds what is no number")
        kept.append(list(row))
    return kept


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def check_shapes(shapes: Mapping[str, Any]) -> tuple[int, int]:
    """Refuse shapes that no filter's state has.

    Returns:
        Rows and components: of the members, or of mean and covariance.
    """
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= _MOST_COMPONENTS for n in shape):
            raise ValueError(f"array {name} has a shape that cannot be")
    names = set(shapes)
    if names in ({"members"}, {"members", "log_weights"}) and len(shapes["members"]) == 2:
        n_rows, n = shapes["members"]
        if shapes.get("log_weights", [n_rows]) == [n_rows] and n_rows > 0:
            return n_rows, n
    elif names == {"mean", "covariance"} and len(shapes["mean"]) == 1:
        [n] = shapes["mean"]
        if shapes["covariance"] == [n, n]:
            return n, n
    raise ValueError(f"arrays {sorted(names)} of shapes {[math.prod(shape) for shape in shapes.values()]} do not fit")
