"""The twin: a fold over a patient's journal that joins models and filters."""
