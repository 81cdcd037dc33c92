"""The same as ``robopref report``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
