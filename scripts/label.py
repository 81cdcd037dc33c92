"""The same as ``robopref label``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
