"""The same as ``robopref evaluate``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
