"""The same as ``robopref align``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
