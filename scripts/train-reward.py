"""The same as ``robopref train-reward``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-reward", *sys.argv[1:]]))
