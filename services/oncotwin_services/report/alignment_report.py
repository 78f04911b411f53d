"""The page of an alignment: figures of mixing and of what was kept, and the embedding before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oncotwin.spatial.alignment import SOURCE, SectionAlignment
from oncotwin.spatial.signature import Signature
from oncotwin_flows.section_alignment import Spots
from oncotwin_services.report.pages import environment
from oncotwin_services.report.signature_maps import draw_spots
from oncotwin_services.report.signatures_report import Picture

PAGE = "alignment.html"


def write_alignment_report(folder: Path, spots: Spots, made: SectionAlignment) -> Path:
    """Write the page beside the table.

    Args:
        folder: of the alignment.
        spots: that were aligned.
        made: the alignment.
    Returns:
        path of the page.
    """
    by_name = {one.name: one for one in made.signatures}
    n, n_classes = len(spots.names), len(spots.labels)
    rows = [
        ("sections (iLISI)", _said(by_name["ilisi.before"]), _said(by_name["ilisi.after"]),
         f"from 1, each section apart, to {n}, all mixed"),
        ("classes of tissue (cLISI)", _said(by_name["clisi.before"]), _said(by_name["clisi.after"]),
         f"1: tissues stayed apart; {max(n_classes, 1)}: they ran into each other"),
    ]  # fmt: skip
    mixed = by_name["ilisi.after"].value - by_name["ilisi.before"].value
    lead = (
        f"Around a spot lie {by_name['ilisi.after'].value:.2f} sections in effect, "
        f"{'more' if mixed > 0 else 'no more'} than before ({by_name['ilisi.before'].value:.2f}). "
        + ("" if made.converged else "The alignment had not come to rest when it was ended. ")
        + "Signatures stay those of each section alone; this page says how far sections may be compared spot by spot."
    )
    content = {
        "sections": spots.names, "n_spots": len(spots.ids), "sets": spots.sets, "classes": spots.labels,
        "column": "class", "lead": lead, "rows": rows, "source": SOURCE, "pictures": _pictures(spots, made),
    }  # fmt: skip
    page = folder / PAGE
    page.write_text(environment().get_template("alignment.html.j2").render(content), "utf-8")
    return page


def _pictures(spots: Spots, made: SectionAlignment) -> list[Picture]:
    found, least = [], max(1, len(spots.ids) // 50)
    for when, points in (("Before", made.before), ("After", made.after)):
        if points.shape[1] < 2:
            points = np.column_stack([points, np.zeros(len(points))])
        for what, labels, names in (
            ("section", spots.sections, spots.names), ("class of tissue", spots.classes, spots.labels)
        ):
            caption = f"A dot is a spot, its colour its {what}; first two coordinates."
            found.append(Picture(draw_spots(points, labels, names, least), f"{when}, by {what}", caption))
    return found


def _said(one: Signature) -> str:
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" if np.isfinite(one.value) else "not known"
