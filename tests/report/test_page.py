import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from robopref.errors import DataError
from robopref.report.groups import gather
from robopref.report.page import hide_secrets, render, write_report

VOID = {"meta", "link", "img", "br", "input", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Checks that tags nest, and collects ids, references and visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.words, self.scripts = [], [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                self.references.append(value)
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def text(filmed_run):
    return render(gather([filmed_run]))[0]


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_tags_nest_and_ids_are_unique(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert not re.search(r"https?:", text)
    assert all(r.startswith(("data:", "#")) for r in page.references)
    assert not re.search(r"@import|url\((?!#|data:)", text)


def test_references_inside_the_page_lead_somewhere(text, page):
    wanted = {r[1:] for r in page.references if r.startswith("#")} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert wanted <= set(page.ids)


def test_every_number_of_the_files_is_on_the_page(page):
    evaluations = ["84.0%", "[71.5%, 91.7%]", "42/50", "22.0%", "11/50", "38.0%", "19/50"]
    learned = ["0.761", "0.496", "0.748", "0.701", "0.732", "0.806", "0.032", "656"]
    phases = ["3 min 32 s", "3.2 s", "1.9 s", "48.6 s", "2 min 02 s", "1 min 01 s", "7 min 29 s"]
    provenance = ["611 MiB", "702 MiB", "956 MiB", "Make-believe 9000", "torch 2.15.0", "120 pairs"]
    provenance += ["robopref run env.task=drawer-open seed=0", "members: 3"]
    for number in (*evaluations, *learned, *phases, *provenance):
        assert number in page.text, number


def test_every_figure_has_a_numbered_caption(text):
    captions = re.findall(r"<figcaption><b>Figure (\d+)\.", text)
    assert captions == [str(i + 1) for i in range(text.count("<figure>"))]
    assert len(captions) == 8


def test_films_are_embedded_with_their_cursor(text, page):
    assert sum(r.startswith("data:video/mp4;base64,") for r in page.references) == 2
    assert sum(r.startswith("data:image/jpeg;base64,") for r in page.references) == 12
    assert text.count('class="cursor"') == 2


def test_films_beyond_the_budget_are_named(filmed_run):
    text, notes = render(gather([filmed_run]), film_budget_mib=0.0)
    assert "data:video/mp4" not in text
    assert len(notes) == 2
    assert "rollout-0.mp4 is not embedded" in Page(text).text


def test_a_broken_film_is_mentioned_and_the_page_is_made(make_run, tmp_path):
    run = make_run(tmp_path / "r")
    (run / "evaluation" / "rollout-0.mp4").write_bytes(b"no film")
    text, notes = render(gather([run]))
    assert any("cannot be decoded" in note for note in notes)
    assert "cannot be decoded" in text


def test_markup_in_names_stays_text(make_run, tmp_path):
    evil = "<script>alert(1)</script>"
    run = make_run(
        tmp_path / "r", task=evil, method=evil, sources=["<b>bold"], successes={"<img src=x onerror=y>": 3}
    )
    (run / "config.yaml").write_text(f"task: '{evil}'\n")
    text, _ = render(gather([run]))
    page = Page(text)
    assert page.scripts == 1
    assert "alert(1)" in page.text
    assert "<img src=x" not in text
    assert "<b>bold" not in text


def test_missing_phases_are_named(make_run, tmp_path):
    run = make_run(tmp_path / "r")
    for folder in ("alignment", "reward", "evaluation", "policy"):
        shutil.rmtree(run / folder)
    (run / "log.jsonl").unlink()
    (run / "config.yaml").unlink()
    page = Page(render(gather([run]))[0])
    for word in ("alignment/record.json", "reward/metrics.json", "evaluation/<policy>.json", "log.jsonl"):
        assert word in page.text
    assert page.open == []


def test_whether_a_transfer_may_be_inverted_is_said_of_one_run_and_of_each_of_several(make_run, tmp_path):
    runs = [make_run(tmp_path / f"r{seed}", seed=seed) for seed in (0, 1)]
    for run, chance in zip(runs, (0.05, 0.32), strict=True):
        path = run / "alignment" / "record.json"
        record = json.loads(path.read_text())
        record["settings"] |= {"at_risk": False, "agreement": {"between sources": 0.9}, "anchors": 1}
        record["settings"]["chance_inverted"] = chance
        path.write_text(json.dumps(record))
    assert Page(render(gather(runs[:1]))[0]).text.count("chance of an inversion is 5%") == 1
    both = Page(render(gather(runs))[0]).text
    assert [both.count(f"chance of an inversion is {share}") for share in ("5%", "32%")] == [1, 1]


def test_seeds_and_settings_share_a_page(make_run, tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", seed=seed)
        make_run(tmp_path / f"b{seed}", seed=seed, task="door-close")
    text, _ = render(gather([tmp_path]))
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "4 runs on door-close, drawer-open" in page.text
    assert "84/100" in page.text
    assert "pooled over seeds" in page.text


def test_passwords_do_not_reach_the_page(text):
    assert "hunter2" not in text
    assert hide_secrets("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert hide_secrets("api_key: abc\nname: x") == "api_key: ***\nname: x"
    assert hide_secrets("api_key: null") == "api_key: null"


def test_a_page_is_written_whole_and_its_size_is_told(make_run, tmp_path):
    written = write_report(gather([make_run(tmp_path / "r")]), tmp_path / "new" / "report.html")
    assert written.path.stat().st_size == pytest.approx(written.mebibytes * 2**20)
    assert [p.name for p in written.path.parent.iterdir()] == ["report.html"]
    assert written.notes == (
        f"{tmp_path / 'r'}: rollout-0.npz has no film (no reason was written).",
        f"{tmp_path / 'r'}: rollout-1.npz has no film (no reason was written).",
    )


def test_a_heavy_page_comes_with_a_warning(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("robopref.report.page.WARN_ABOVE_MIB", 0.01)
    written = write_report(gather([make_run(tmp_path / "r")]), tmp_path / "report.html")
    assert "for a lighter page" in written.notes[-1]


def test_a_place_that_cannot_be_written_to_is_named(make_run, tmp_path):
    report = gather([make_run(tmp_path / "r")])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_report(report, tmp_path / "file" / "report.html")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to load the page")
def test_a_browser_loads_the_page_without_an_error_and_places_the_cursor(text, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr "
        "--virtual-time-budget=4000 --dump-dom"
    )
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('data-step="step ') == 2
