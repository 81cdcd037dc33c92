"""The same as ``robopref label-scripted``."""

import sys

from robopref.cli import main

if __name__ == "__main__":
    sys.exit(main(["label-scripted", *sys.argv[1:]]))
