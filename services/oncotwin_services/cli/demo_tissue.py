"""The demo's patient with tissue: generated sections and a slide go the way that a hospital's would.

The patient and the tissue are generated (`oncotwin.spatial.section_phantom`, `slide_phantom`), as no real patient here
has lesions measured over time and sections that may be passed on. Two sections, before treatment and on it, and a slide
are imported, lie in an array store, and are announced by claim checks in the log.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.twin_store import TwinStore

TWIN = "GENERATED/P-1"
_SOURCE = "urn:oncotwin:GENERATED:demo"
_BEGIN = datetime(2024, 3, 4, tzinfo=UTC)
_SPOTS_ACROSS = 30
_SLIDE_PIXELS, _MPP = 2_048, 0.25
_SECTIONS = (("before", 2, "excluded"), ("on-treatment", 86, "hot"))
"""Name, day and immune pattern."""
_LESION_MM = ((0, 31.0), (42, 27.5), (84, 24.0), (126, 22.5))
_SEED = 20
_PAGES = ("before", "slide")


def add_tissue(settings: Settings, log: EventLog, store: TwinStore, report: Path) -> dict[str, Any]:
    """Generate, import and announce the patient's tissue, read it, and fold what it says.

    Args:
        settings: of the demo.
        log, store: of those.
        report: folder of the report; pages with maps go below ``tissue``.
    Returns:
        What was read, and the pages.
    """
    from oncotwin_flows.assimilate import run_worker
    from oncotwin_flows.intake import Intake, IntakeRules
    from oncotwin_flows.section_worker import run_sections

    arrays = settings.home / "arrays"
    allowed = settings.model_copy(update={"arrays": [arrays.as_uri()]})
    made = _arrays(arrays, settings.home / "tissue")
    lines = [*_course(), *(_claim(name, path) for name, path in made.items())]
    rules = IntakeRules(wiring.clock_skew(settings), tuple(allowed.arrays))
    refused = Intake(log, store, wiring.SystemClock(), rules).ingest(lines).rejections
    assert not refused, refused
    read = run_sections(allowed, until_idle=True)
    run_worker(allowed, until_idle=True)
    pages = [_page(made[name], report / "tissue" / name) for name in _PAGES]
    return {"sections_and_slides": read["n_sections"], "evidence": read["n_evidence"], "pages": pages}


def _arrays(folder: Path, scratch: Path) -> dict[str, Path]:
    from oncotwin.adapters.arrays.phantoms import write_section_folder, write_slide
    from oncotwin.adapters.arrays.sections import import_section
    from oncotwin.spatial.section_phantom import make_section

    folder.mkdir(parents=True)
    made = {}
    for at, (name, _, pattern) in enumerate(_SECTIONS):
        made[name] = folder / f"{name}.zarr"
        phantom = make_section(pattern, np.random.default_rng((_SEED, at)), _SPOTS_ACROSS)
        write_section_folder(phantom, scratch / name)
        import_section(scratch / name, made[name])
    made["slide"] = folder / "slide.zarr"
    write_slide(made["slide"], _SLIDE_PIXELS, _MPP, np.random.default_rng(_SEED))
    return made


def _course() -> list[bytes]:
    lines = [
        _event("lesion.measured", f"lesion-{day}", day,
               {"lesion": "L1", "kind": "longest_diameter", "value": mm, "unit": "mm"})
        for day, mm in _LESION_MM
    ]
    start = {"agent": "atezolizumab", "action": "on", "start": _time(7)}
    return [*lines, _event("treatment.administered", "treatment", 7, start)]


def _claim(name: str, path: Path) -> bytes:
    from oncotwin.adapters.arrays.manifest import read_manifest
    from oncotwin.domain.claim import manifest_hash

    entries = read_manifest(path)
    said = {
        "dataref": path.as_uri(), "datahash": manifest_hash(entries), "datasize": sum(one.n_bytes for one in entries)
    }
    if name == "slide":
        data = {"slide": name, "specimen": "S-before", "magnification": 40, "microns_per_pixel": _MPP, "stain": "H&E"}
        return _event("pathology.wsi", name, _SECTIONS[0][1], data, **said)
    day = next(day for one, day, _ in _SECTIONS if one == name)
    data = {"section": name, "specimen": f"S-{name}", "panel": "generated", "platform": "Visium", "pixel_size_um": 0.5}
    return _event("omics.section", name, day, data, **said)


def _event(kind: str, name: str, day: int, data: dict[str, Any], **more: Any) -> bytes:
    content = {
        "specversion": "1.0", "id": name, "source": _SOURCE, "type": f"org.oncotwin.{kind}.v1", "subject": TWIN,
        "time": _time(day), "data": data, **more,
    }
    return json.dumps(content).encode()


def _time(day: int) -> str:
    return (_BEGIN + timedelta(days=day)).isoformat().replace("+00:00", "Z")


def _page(stored: Path, out: Path) -> str:
    """Signatures of one array with their maps, for people to look at: the flow keeps what it says of the tumour."""
    from oncotwin_flows.section_readers import readers_on
    from oncotwin_services.report.signatures_report import write_signatures_report

    is_slide = stored.name.startswith("slide")
    readers_on(None)["pathology.wsi" if is_slide else "omics.section"](stored, out)
    return str(write_signatures_report(out, stored if is_slide else None))
