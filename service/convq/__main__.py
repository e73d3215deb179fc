"""`python -m convq` is the command `convq`."""

import sys

from convq.cli import main

if __name__ == "__main__":
    sys.exit(main())
