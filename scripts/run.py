"""The same as ``robopref run``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
