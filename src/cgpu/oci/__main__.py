"""``python -m cgpu.oci``; see ``cgpu.oci.main``."""

import sys

from cgpu.oci.main import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
