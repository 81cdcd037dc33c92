"""Two workers on two cores: each test computes on one thread, so that they do not wait for one another."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Many tests start programs that import torch. Where bytecode is not kept (some images say so, and uv compiles
# nothing), each of them compiles 4,000 files: five of the eleven seconds that a finished `run` computes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
