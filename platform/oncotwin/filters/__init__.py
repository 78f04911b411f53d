"""Bayesian filters over batches of twins: they know no tumours, only systems that propagate and observe."""
