"""A reference cohort from sections whose signatures were computed: what later sections are compared with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.cohort_sums import on_cohort_scale
from oncotwin.spatial.reference_cohort import Cohort, make_cohort
from oncotwin.spatial.signature import Signature

HELD_BY = 0.9
"""Share of the sections that must have a signature for it to be compared."""
_BY_CHANCE = "niche_"
"""Niches are numbered in each section anew, so number two of one is not number two of another."""


def read_signatures(folder: Path) -> tuple[str, list[Signature]]:
    """Kind and platform, such as ``omics.section Visium``, and all signatures of a folder of `oncotwin signatures`.

    Raises:
        ConfigurationError: the folder holds no such summary.
    """
    path = folder / "summary.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_section = content["kind"] == "section"
        entries = content["signatures"]
        platform = str(content.get("platform", "H&E"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no summary of signatures ({error!r}); run `oncotwin signatures`") from None
    return f"{'omics.section' if is_section else 'pathology.wsi'} {platform}", [Signature.from_json(e) for e in entries]


def build_cohort(name: str, of: str, folders: Sequence[Path]) -> Cohort:
    """A cohort from the folders of its sections.

    Args:
        name: of the cohort, told with each comparison.
        of: kind and platform (or stain) of the events that are to be compared, such as ``omics.section Visium``.
        folders: of `oncotwin signatures`, one a section.
    Raises:
        ConfigurationError: a folder is of another kind, or there are too few sections or common signatures.
    """
    members = []
    for folder in folders:
        kind, signatures = read_signatures(folder)
        if kind.split()[0] != of.split()[0]:
            raise ConfigurationError(f"{folder} is of {kind.split()[0]}, the cohort of {of}; leave it out")
        members.append(on_cohort_scale(one for one in signatures if not one.name.startswith(_BY_CHANCE)))
    held = Counter(one for member in members for one in member)
    names = sorted(one for one, n in held.items() if n >= HELD_BY * len(members))
    return make_cohort(name, members, names)


def write_cohort(cohort: Cohort, of: str, out: Path) -> None:
    """As a file of the folder that the setting `cohorts` names.

    Raises:
        ConfigurationError: the file is there already.
    """
    content = {"for": of, **cohort.to_json()}
    try:
        with out.open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
    except FileExistsError:
        raise ConfigurationError(f"{out} is there already; remove it, or name another file") from None
