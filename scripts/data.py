"""The same as ``robopref data``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
