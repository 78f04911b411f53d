"""Mechanistic tumour models, their observation operators and priors: they know no filters."""
