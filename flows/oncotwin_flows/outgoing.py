"""What the platform tells the world: estimates, alerts and refusals as events of their own topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import orjson

from oncotwin.domain.ids import TwinId
from oncotwin.ports.report_ledger import ReportRow
from oncotwin.ports.twin_rows import AlertRow, DeadLetter, OutboxRow, TwinCommit

SOURCE = "urn:oncotwin:platform"
ESTIMATED, ALERTED, REJECTED, SIGNED = "twin.estimated", "twin.alerted", "event.rejected", "report.signed"


def _row(topic: str, message_key: str, subject: str, time: datetime, value: bytes, recorded: str) -> OutboxRow:
    """One outgoing event in binary mode; ``message_key`` is its id, the same whenever it is sent again."""
    headers = (
        ("ce_specversion", b"1.0"), ("ce_source", SOURCE.encode()), ("ce_id", message_key.encode()),
        ("ce_type", f"org.oncotwin.{topic}.v1".encode()), ("ce_subject", subject.encode()),
        ("ce_time", time.isoformat().encode()), ("ce_recordedtime", recorded.encode()),
        ("content-type", b"application/json"),
    )
    return OutboxRow(topic=topic, key=subject, message_key=f"{topic}:{message_key}", value=value, headers=headers)


def _with(content: bytes, **more: str) -> bytes:
    """A JSON object with members added at its end; the object itself is not read, which the hot path would feel."""
    return content[:-1] + b"," + orjson.dumps(more)[1:]


def institution_alert(alert: AlertRow, now: datetime) -> OutboxRow:
    """An alert that concerns no patient; its subject is the institution alone."""
    return _row(ALERTED, alert.alert_id, alert.twin_id, alert.time, alert.body, now.isoformat())


def report_signed(report: ReportRow) -> OutboxRow:
    """A report that a person signed, once; its time is that of the signature."""
    signature = report.signature
    assert signature is not None
    value = orjson.dumps(
        {
            "report_id": report.report_id, "kind": report.kind, "twin_version": report.version,
            "model_version": report.model_version, "state_digest": report.digest,
            "data_through": report.data_through.isoformat(), "known_at": report.known_at.isoformat(),
            "by": signature.by, "verdict": signature.verdict, "comment": signature.comment,
            "superseded": signature.superseded,
        }
    )
    return _row(SIGNED, report.report_id, report.twin_id, signature.at, value, signature.at.isoformat())


def outbox_rows(
    twins: Sequence[TwinCommit], dead_letters: Sequence[DeadLetter], now: datetime, standing: Sequence[AlertRow] = (),
    left: Mapping[TwinId, bytes] | None = None,
) -> tuple[OutboxRow, ...]:
    """The latest estimate of each twin of a commit group, its alerts, and what was refused.

    A message's id holds the twin's version, which is committed once: sent again it is the same, and a state or an alert
    that comes back after it had been taken back is told of again. The estimate is null where a twin has none left.

    Args:
        standing: alerts in force of the twins that fold again; of those that do not come back it is told that they are
            explained away, and by which event.
        left: latest estimates that stand of twins that fold again and make no new one.
    """
    rows: list[OutboxRow] = []
    recorded = now.isoformat()
    by_twin = {one.twin_id: one for one in twins if one.rewound_to is not None}
    for alert in standing:
        one = by_twin[alert.twin_id]
        if one.rewound_to is None or alert.time < one.rewound_to or alert.alert_id in {a.alert_id for a in one.alerts}:
            continue
        value = _with(alert.body, model_version=one.model_version, superseded_by=one.rewound_by)
        key = f"{alert.alert_id}:{one.new_version}:superseded"
        rows.append(_row(ALERTED, key, one.twin_id, alert.time, value, recorded))
    for one in twins:
        present = one.snapshots[-1]
        if one.estimates or one.rewound_to is not None:
            estimate = one.estimates[-1].body if one.estimates else (left or {}).get(one.twin_id, b"null")
            value = _with(
                b'{"estimate":' + estimate + b"}", model_version=one.model_version, state_digest=present.digest,
                data_through=present.time.isoformat(), known_at=recorded,
            )
            key = f"{one.twin_id}:{one.new_version}"
            rows.append(_row(ESTIMATED, key, one.twin_id, present.time, value, recorded))
        for alert in one.alerts:
            value = _with(alert.body, model_version=one.model_version)
            row = _row(ALERTED, f"{alert.alert_id}:{one.new_version}", one.twin_id, alert.time, value, recorded)
            rows.append(replace(row, alert_id=alert.alert_id))
    for letter in dead_letters:
        data = {
            "reason_code": letter.reason_code, "reason": letter.reason, "where": letter.where,
            "remedy": letter.remedy, "raw": letter.raw.decode("utf-8", "replace"),
        }
        subject = letter.twin_id or "unknown/unknown"
        value = orjson.dumps(data)
        rows.append(_row(REJECTED, letter.rejection_id, subject, letter.received_at, value, recorded))
    return tuple(rows)
