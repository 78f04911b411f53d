"""The CloudEvents 1.0 envelope with the platform's extension attributes."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, StringConstraints, field_validator, model_validator

from oncotwin.domain.moments import Moment
from oncotwin.domain.payloads import PAYLOADS, Payload, Subject, Uri, event_type, kind_of, placed, read_payload

_SCHEMA_PREFIX = "urn:oncotwin:schema:"


def schema_name(type_: str) -> str:
    """Return the `dataschema` of a current type, e.g. ``urn:oncotwin:schema:lesion.measured:v1``."""
    return f"{_SCHEMA_PREFIX}{kind_of(type_)}:{type_[type_.rindex('v') :]}"


_KINDS = {event_type(kind): kind for kind in PAYLOADS}


class Event(BaseModel):
    """One event, as sent: attributes and payload of the right shape, not yet judged.

    Immutable. `time` and all other times are aware and UTC; see `moments` for what "day" means.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    specversion: Literal["1.0"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Unique within the source; the pair of the two is the idempotency key."""
    source: Uri
    """URI of the sending system; registered to one institution."""
    type: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    subject: Subject
    """``<institution>/<patient>``, both pseudonyms."""
    time: Moment
    """Clinical time: specimen taken, image acquired, dose given, plan ordered."""
    timeprecision: Literal["instant", "day"] = "instant"
    """"day": `time` is the start of that calendar day, which is an interval; implied by a date alone."""
    recordedtime: Moment | None = None
    """When the source system recorded it."""
    sequence: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Running number within the source."""
    status: Literal["preliminary", "final", "corrected", "entered-in-error"] = "final"
    dataref: Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[!-~]+$")] | None = None
    datahash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    datasize: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    dataschema: Uri | None = None
    traceparent: (
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None
    ) = None
    data: SerializeAsAny[Payload]

    @model_validator(mode="before")
    @classmethod
    def _place_in_time(cls, content: Any) -> Any:
        return placed(content)

    @field_validator("dataschema")
    @classmethod
    def _schema_of_this_type(cls, dataschema: str | None, info: Any) -> str | None:
        type_ = info.data.get("type")
        if dataschema is not None and type_ is not None and dataschema != schema_name(type_):
            raise ValueError(f"the schema of {type_} is {schema_name(type_)}")
        return dataschema

    @field_validator("data", mode="plain", json_schema_input_type=dict[str, Any])
    @classmethod
    def _read_data(cls, data: Any, info: Any) -> Payload:
        return read_payload(info.data.get("type"), data)

    @property
    def kind(self) -> str:
        """The short kind, e.g. ``lesion.measured``."""
        return _KINDS[self.type]

    @property
    def key(self) -> tuple[str, str]:
        """The idempotency key (source, id)."""
        return (self.source, self.id)
