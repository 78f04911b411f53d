"""Conformance suites, test servers and scenarios; imported by tests and by plug-ins' tests alone."""
