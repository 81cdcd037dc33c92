"""The same as ``robopref doctor``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
