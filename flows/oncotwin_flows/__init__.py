"""The workflows that drive the twins: assimilate, calibrate, back-test."""
