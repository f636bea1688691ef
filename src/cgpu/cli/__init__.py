"""The command line: one file for each verb; the only place that turns errors into exit codes."""
