"""``python -m cgpu`` is ``cgpu``."""

from cgpu.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
