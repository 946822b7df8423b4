"""`python -m rawsgi`: the same as the `rawsgi` command."""

import sys

from rawsgi.cli import main

if __name__ == "__main__":
    sys.exit(main())
