"""What fits together: compatibility data (TOML) and verdicts about it. Pure; the standard library only."""

from typing import Final

EXPORT_FORMATS: Final = ("json", "csv", "markdown")
"""Of ``cgpu.compat.export``; here, so that naming them loads nothing."""
