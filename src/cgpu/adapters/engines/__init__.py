"""Container engines: where each keeps its list of OCI runtimes, and how ours is put there and taken away.

A module per engine: text in, text out. ``engine`` is what they have in common.
"""
