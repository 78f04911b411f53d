"""What the platform talks about: events, observations, treatments, their units and their rules.

The innermost layer: it imports nothing of the platform and knows no engine, no clock and no file.
"""
