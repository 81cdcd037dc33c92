"""``python -m robopref.cli``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main())
