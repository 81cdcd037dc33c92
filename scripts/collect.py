"""The same as ``robopref collect``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["collect", *sys.argv[1:]]))
