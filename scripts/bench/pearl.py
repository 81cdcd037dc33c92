"""Every measured part of docs/results/pearl.md, in the order of the page, as one command.

    python scripts/bench/pearl.py --minutes 600 --page docs/results/pearl.md   # again to go on
    python scripts/bench/pearl.py --list                                       # the parts and their commands
    python scripts/bench/pearl.py --only metaworld pictures --page docs/results/pearl.md

A part is a command of its own. Those that measure cell by cell stop when the minutes are over, go on with
the next call, and with --page write their table into the page. Of the others, which are not begun when the
minutes are over, what they print is kept in outputs/bench/pearl/PART.txt; while that file is there, they are
not run again. Ctrl-C stops the part that runs; the same command goes on.
"""

import argparse
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from robopref.files import write_text

HERE, CELLS = Path(__file__).parent, Path("outputs/bench")
RUN = "robopref run experiment=pearl env=robosuite"
SQUARE = "'square to lift' 'square to can' 'lift to square' 'can to square'"
TARGETS = "drawer-open window-close door-close sweep-into push plate-slide handle-press"


@dataclasses.dataclass(frozen=True)
class Part:
    """A command; the cells that it goes on from, if it takes ``--minutes``; whether it takes ``--page``."""

    words: str
    cells: str = ""
    writes: bool = False

    def command(self, minutes: float = 0.0, page: Path | None = None) -> list[str]:
        """Words to run in the root of the repository."""
        words = shlex.split(self.words)
        if words[0] == "robopref":
            words = [sys.executable, "-m", "robopref.cli", *words[1:]]
        elif words[0].endswith(".py"):
            words = [sys.executable, str(HERE / words[0]), *words[1:]]
        words += ["--minutes", f"{minutes:.1f}"] if self.cells else []
        return words + (["--page", str(page)] if self.writes and page else [])


METAWORLD, ROBOSUITE = "transfer-metaworld.jsonl", "transfer-robosuite.jsonl"
PARTS = {
    "metaworld": Part("transfer.py", METAWORLD, True),
    "unequal-rates": Part("unequal_rates.py", "unequal-rates.jsonl", True),
    "development": Part("transfer.py --development --seeds 0 1 --minutes inf"),
    "development-rates": Part("unequal_rates.py --development --minutes inf"),
    "robosuite": Part(
        "transfer.py --env robosuite --transfers 'can to lift' 'lift to can' --seeds 0 1 2", ROBOSUITE, True
    ),
    "square": Part(f"transfer.py --env robosuite --transfers {SQUARE} --seeds 0", ROBOSUITE, True),
    "can": Part(f"{RUN} env.task=can alignment.sources=[lift] out=outputs/bench/pearl/run-can"),
    "lift": Part(f"{RUN} env.task=lift alignment.sources=[can] out=outputs/bench/pearl/run-lift"),
    "rebrac-settings": Part("rebrac_settings.py"),
    "iql-seeds": Part("iql_seeds.py --steps 5 --compile"),
    "large-sets": Part("transfer_scale.py"),
    "landmarks": Part("transfer_scale.py --accuracy"),
    "ensembles": Part("transfer_scale.py --ensemble"),
    "couplings": Part("gromov.py"),
    "couplings-torch": Part("gromov.py --device cpu --seed 100"),
    "policies": Part(f"pearl_policies.py --targets {TARGETS} --seeds 0 1 2", "pearl-policies.jsonl", True),
    "iql-update": Part(
        "uv run --with d3rlpy --with torchrl python scripts/bench/iql_update.py --compile "
        "--libraries d3rlpy torchrl"
    ),
    "metaworld-step": Part("metaworld_step.py --repeats 3"),
    "store-reading": Part("store_reading.py --episodes 1000 --steps 500"),
    "pictures": Part("pearl_pictures.py", writes=True),
}


def run(command: list[str]) -> str:
    """Run a command, show and return what it prints; Ctrl-C and SIGTERM go to all that it started."""
    settings = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **os.environ}
    stopped, lines = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings, process_group=0) as child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _: (stopped.append(n), os.killpg(child.pid, n)))
        for line in child.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if stopped:
        raise SystemExit("Stopped. The same command goes on.")
    if child.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with code {child.returncode}")
    return "".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that are not there yet."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--minutes", type=float, default=600, help="of all parts together")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS))
    parser.add_argument("--page", type=Path, help="the page that gets the tables and pictures")
    parser.add_argument("--list", action="store_true", help="print the parts and their commands, run nothing")
    given = parser.parse_args(arguments)
    end = time.monotonic() + 60 * given.minutes
    for name, part in ((name, part) for name, part in PARTS.items() if name in given.only):
        left, kept = max(end - time.monotonic(), 0) / 60, CELLS / "pearl" / f"{name}.txt"
        if given.list:
            print(f"{name}: {part.words}")
        elif not kept.exists() and (left or (part.writes and (CELLS / part.cells).exists())):
            print(f"== {name}", flush=True)
            found = run(part.command(left, given.page))
            if not part.writes:
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_text(kept, found)


if __name__ == "__main__":
    main()
