"""What a patient is being given, as a fold over treatment events: the input to every model."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Agent:
    """One drug (or radiation) in force.

    Attributes:
        name: as the source names it.
        since: days since 1970-01-01 when it began.
        until: when it ends, or None while only "on" is known.
        dose, unit: of the last administration, where known.
        course: switched ``on``, to be switched ``off``; else a dose that is part of a course or stands alone.
    """

    name: str
    since: float
    until: float | None = None
    dose: float | None = None
    unit: str = ""
    course: bool = False


@dataclass(frozen=True, slots=True)
class Therapy:
    """The agents in force at one moment, and how the present episode came about.

    Attributes:
        agents: sorted by name.
        line: 1-based line of therapy; 0 before the first treatment.
        switched: days since 1970-01-01 of the last change between "nothing" and "something", None before any.
        n_episodes: how many times treatment was begun after none.
    """

    agents: tuple[Agent, ...] = ()
    line: int = 0
    switched: float | None = None
    n_episodes: int = 0

    @property
    def on(self) -> bool:
        """Whether any agent is in force."""
        return bool(self.agents)

    @property
    def regimen(self) -> str:
        """The names of the agents in force, joined by ' + '; empty while untreated."""
        return " + ".join(agent.name for agent in self.agents)

    def next_stop(self, after: float) -> float | None:
        """The first known end of an agent later than ``after``, or None."""
        stops = [a.until for a in self.agents if a.until is not None and a.until > after]
        return min(stops) if stops else None

    def at(self, time: float) -> Therapy:
        """The therapy once agents whose known end is at or before ``time`` are dropped."""
        kept = tuple(a for a in self.agents if a.until is None or a.until > time)
        if len(kept) == len(self.agents):
            return self
        ended = max(a.until for a in self.agents if a.until is not None and a.until <= time)
        return replace(self, agents=kept, switched=self.switched if kept else ended)

    def changed(
        self, action: str, name: str, time: float, *, until: float | None = None, dose: float | None = None,
        unit: str = "", line: int | None = None,
    ) -> Therapy:
        """The therapy after one event: ``on`` or ``given`` begins or renews an agent, ``off`` ends it.

        An ``off`` without an agent's name (or naming one not in force) ends nothing but what it names; the name
        ``*`` ends all. A line of therapy goes up when something begins after an agent set that did not contain it,
        unless the event names its line.
        """
        now = self.at(time)
        if action == "off":
            kept = tuple(a for a in now.agents if name not in ("*", a.name))
            if len(kept) == len(now.agents):
                return now
            if not any(a.course or a.until is not None for a in kept):
                # Only doses of unknown duration are left: they were part of the course that has been switched off.
                kept = ()
            return replace(now, agents=kept, switched=now.switched if kept else time)
        known = {a.name: a for a in now.agents}
        before = known.get(name)
        since = before.since if before is not None else time
        course = action == "on" or (before is not None and before.course)
        known[name] = Agent(name, since, until, dose, unit, course)
        begins = not now.agents
        next_line = line if line is not None else now.line if before is not None else max(now.line, 1)
        return Therapy(
            agents=tuple(known[key] for key in sorted(known)),
            line=next_line,
            switched=time if begins else now.switched,
            n_episodes=now.n_episodes + (1 if begins else 0),
        )
