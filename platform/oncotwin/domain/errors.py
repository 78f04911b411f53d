"""Everything the platform raises on purpose.

A message says what was wrong, where, and what to do about it, in that order.
"""


class OncotwinError(Exception):
    """Root of all errors that the platform raises on purpose."""


class EventError(OncotwinError):
    """An event cannot be read. It carries what a `Rejection` needs, so nothing is said twice.

    Args:
        reason_code: stable machine-readable code, e.g. ``duplicate_key``.
        reason: what was wrong, in a sentence.
        where: the attribute or path concerned, e.g. ``data.unit``; "" where none is known.
        remedy: what the sender should do.
    """

    def __init__(self, reason_code: str, reason: str, where: str = "", remedy: str = "") -> None:
        self.reason_code = reason_code
        self.reason = reason
        self.where = where
        self.remedy = remedy
        at = f" (at {where})" if where and where not in reason else ""
        then = f"; {remedy}" if remedy else ""
        super().__init__(f"{reason}{at}{then}")

    def __reduce__(self) -> tuple[type["EventError"], tuple[str, str, str, str]]:
        """Pickle by the four parts: an error crosses process borders whole."""
        return (type(self), (self.reason_code, self.reason, self.where, self.remedy))


class TableError(OncotwinError):
    """A table to be converted lacks a column, or no row of it can be read."""


class StaleVersionError(OncotwinError):
    """A twin's version moved on under us: the compare-and-swap of a commit lost, nothing was written."""


class ChampionChangedError(StaleVersionError):
    """Another model version was promoted: what was folded under the one before may not be committed."""


class LineBehindError(OncotwinError):
    """The line of a model version lags too far behind to be promoted; nothing was written."""


class FencedError(OncotwinError):
    """Our lease on a partition was taken over by another worker: nothing was written."""


class ConfigurationError(OncotwinError):
    """A setting is missing, contradicts another, or names something that does not exist."""


class HostLostError(OncotwinError):
    """A host of twins died with a fold under way; nothing of it was committed."""


class StoreError(OncotwinError):
    """The twin store refused or failed an operation."""


class ErasedError(OncotwinError):
    """The patient's key was destroyed: what was kept under it cannot be read, and nothing more may be kept."""


class StoreUnavailableError(StoreError):
    """The database does not answer, or could not do what it was asked: no event's fault, and worth trying again."""


class LogError(OncotwinError):
    """The event log refused or failed an operation."""


class ModelError(OncotwinError):
    """A model, its prior or its registry entry is unknown, damaged or of another shape than expected."""
