"""The same as ``robopref merge``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["merge", *sys.argv[1:]]))
