"""The same as ``robopref train-policy``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-policy", *sys.argv[1:]]))
