"""The shipped patients, embedded and on Kafka with PostgreSQL: equal to the bit."""

from __future__ import annotations

from pathlib import Path

from oncotwin.adapters.tables import convert
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.events import encode_line
from oncotwin_flows.assimilate import run_worker
from oncotwin_flows.intake import Intake, IntakeRules


def digests(settings: Settings, lines: list[bytes]) -> dict[str, str]:
    """State digests of all twins after the lines went through the whole stream."""
    store, log = wiring.open_store(settings), wiring.open_log(settings)
    try:
        report = Intake(log, store, wiring.SystemClock(), IntakeRules()).ingest(lines)
        assert report.n_accepted == len(lines)
        done = run_worker(settings, until_idle=True)
        assert (done["n_accepted"], done["n_rejected"]) == (len(lines), 0)
        heads = store.twin_heads()
        return {twin_id: row.digest for twin_id, row in store.latest_snapshots(list(heads)).items()}
    finally:
        log.close()
        store.close()


def test_embedded_and_deployed_agree_to_the_bit(tmp_path: Path, kafka_broker: str, postgres_database: str) -> None:
    lines = [encode_line(event) for event in convert("atezolizumab", lesions())]
    models = ["oncotwin.models.tumour_burden:TumourBurden"]
    embedded = Settings(home=tmp_path, ray="in-process", models=models)
    deployed = Settings(
        home=tmp_path / "deployed", ray="in-process", models=models, log=f"kafka://{kafka_broker}",
        topic=f"same.{tmp_path.name}", store=postgres_database, partitions=3, commit_events=333,
    )
    ours = digests(embedded, lines)
    assert len(ours) == 628
    assert digests(deployed, lines) == ours
