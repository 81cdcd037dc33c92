"""Pictures of every page of the labelling application: dark and light, on a desk and on a tablet.

    python scripts/bench/labeling_screens.py --data data/drawer-open --out outputs/screens

Scripted people label first, so that the pages about everybody have something to show; their labels and clips
are thrown away. Without ``--data`` the clips are plots of made-up numbers. Needs Chromium and, of the
development extras, playwright.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

import httpx
from labeling_load import Served, made_store
from playwright.sync_api import Browser, sync_playwright

SIZES = {"desk": (1280, 800), "tablet": (820, 1180)}
THEMES = ("dark", "light")
PATIENCE_S = 300.0
PEOPLE = {"Anna": 15, "Bert": 11, "Carl": 8}  # and how many answers each of them gives
QUESTIONS = {
    "pair": ("online=true", "query=disagreement", "pairs=15", "shared=1.0", "every=5", "strength=true"),
    "ranking": ("feedback=ranking", "pairs=3"),
    "thumbs": ("feedback=updown", "pairs=8"),
}
TOKEN = "only-for-the-pictures"


def main() -> None:
    """Serve each kind of question in turn, and take a picture of each page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a trajectory store; made up where none is given")
    parser.add_argument("--out", type=Path, default=Path("outputs/screens"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        camera = Camera(browser, options.out)
        made = made_store(Path(folder) / "made", episodes=8)
        for kind, asked in QUESTIONS.items():
            with Served(options.data or made, *places(folder, kind), *asked) as server:
                photograph(camera, server.url, kind)
        with Served(made, *places(folder, "plots"), "pairs=3", f"token={TOKEN}") as server:
            camera.take("plots", server.url + "&annotator=Dora", "#left[data-state=ready]")
            camera.take("refused", server.url.partition("?")[0], ".done")
        browser.close()


def places(folder: str, kind: str) -> tuple[str, ...]:
    """Return the options by which labels, clips and curves lie apart from the data."""
    return f"labels=sqlite:///{folder}/{kind}.sqlite", f"clips={folder}/clips", f"online_dir={folder}/{kind}"


class Camera:
    """Takes a picture of a page in each theme and size."""

    def __init__(self, browser: Browser, out: Path):
        self.browser, self.out = browser, out

    def take(self, name: str, url: str, wanted: str, key: str | None = None, *, whole: bool = True) -> None:
        """Open an address, wait for an element, press a key where one is named, and take the pictures."""
        for theme, (size, (width, height)) in itertools.product(THEMES, SIZES.items()):
            context = self.browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=theme, has_touch=size == "tablet"
            )
            page = context.new_page()
            page.set_default_timeout(1000 * PATIENCE_S)
            page.goto(url)
            page.wait_for_selector(wanted)
            if key is not None:
                page.keyboard.press(key)
            page.wait_for_timeout(400)
            page.screenshot(path=self.out / f"{name}-{theme}-{size}.png", full_page=whole)
            context.close()
        print(f"{name}: {self.out / name}-*.png", file=sys.stderr)


def photograph(camera: Camera, url: str, kind: str) -> None:
    """Take the pictures of one kind of question; with pairs, of all that surrounds it."""
    asked = f"{url}?annotator=Dora"
    if kind != "pair":
        camera.take(kind, asked, "#left[data-state=ready]")
        return
    camera.take("name", url, "#name[open]", whole=False)
    for name, answers in PEOPLE.items():
        label(url, name, answers)
    camera.take("pair", asked, "#left[data-state=ready]", whole=False)
    camera.take("help", asked, "#left[data-state=ready]", "?", whole=False)
    camera.take("end", f"{url}?annotator=Anna", "#done:not([hidden])")
    camera.take("quality", f"{url}quality", "#people svg")
    camera.take("team", f"{url}admin", "#people progress")
    camera.take("learning", asked, "#learning-curve svg")


def label(url: str, name: str, answers: int) -> None:
    """Answer in a person's name: three times out of four left, so that people sometimes differ."""
    with httpx.Client(base_url=url, timeout=60) as client:
        turn = client.get("/api/question", params={"annotator": name}).raise_for_status().json()
        for number in range(answers * 2):  # repeated questions come on top
            if turn["question"] is None or turn["done"] >= answers:
                return
            choice = "right" if (number + ord(name[0])) % 4 == 0 else "left"
            body = {"annotator": name, "question": turn["question"]["id"], "choice": choice}
            body |= {"response_time_s": 2.0 + number % 5}
            turn = client.post("/api/answer", json=body).raise_for_status().json()


if __name__ == "__main__":
    main()
