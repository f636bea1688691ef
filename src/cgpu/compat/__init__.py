"""What fits together: compatibility data (TOML) and verdicts about it. Pure; the standard library only."""
