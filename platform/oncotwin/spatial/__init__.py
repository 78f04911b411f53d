"""Signatures as pure functions of a block with its halo, and rules how blocks combine."""
