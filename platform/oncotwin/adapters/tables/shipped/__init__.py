"""Tables that come with the package; ATTRIBUTION.txt names their authors and licences."""

from importlib.resources import files
from pathlib import Path


def lesions() -> Path:
    """Return the table of lesion diameters (CC BY 4.0), to be read with ``convert("atezolizumab", ...)``."""
    return Path(str(files(__name__) / "lesions.csv.gz"))
