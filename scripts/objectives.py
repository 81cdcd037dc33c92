"""The same as ``robopref objectives``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["objectives", *sys.argv[1:]]))
