"""Live, patient-specific digital twins of tumours, driven by a hospital's own event stream."""

__version__ = "0.1.0"
