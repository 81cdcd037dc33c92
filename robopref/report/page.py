"""The report as one HTML file: no request leaves it, and every number in it comes from the runs' files."""

import base64
import dataclasses
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from robopref.errors import DataError, hide_passwords
from robopref.files import write_text
from robopref.report import coupled, figures, matched, matrices, table
from robopref.report.groups import Group, Report
from robopref.report.runs import Rollout, Run
from robopref.report.style import Drawing, Panel

FILM_FRAMES = 6
FILM_WIDTH = 144
WARN_ABOVE_MIB = 25.0


@dataclasses.dataclass(frozen=True)
class Written:
    """The file that was written, its size, and sentences that the reader should also see in the terminal."""

    path: Path
    mebibytes: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Card:
    """One rollout on the page: film as a data URI or None, stills with their times, and the reward trace."""

    title: str
    success: bool
    film: str | None
    stills: tuple[tuple[str, str], ...]
    trace: Panel
    steps: int
    about: str


def write_report(report: Report, path: Path | str, *, film_budget_mib: float = 16.0) -> Written:
    """Write the page.

    Args:
        film_budget_mib: Films are embedded, run by run, until they fill this; the others are named.

    Raises:
        DataError: The file cannot be written.
    """
    path = Path(path)
    text, left_out = render(report, film_budget_mib=film_budget_mib)
    notes = [*report.skipped, *left_out]
    for run in report.runs:
        notes += [f"{run.directory}: {note}" for note in run.notes]
    size = len(text.encode("utf-8")) / 2**20
    if size > WARN_ABOVE_MIB:
        notes.append(
            f"{path} has {size:.0f} MiB; give fewer runs, or a smaller film budget, for a lighter page."
        )
    write_text(path, text)
    return Written(path, size, tuple(notes))


def render(report: Report, *, film_budget_mib: float = 16.0) -> tuple[str, list[str]]:
    """Return the page as text, and what had to be left out of it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["svg"] = lambda panel: Markup(panel.svg)
    environment.filters["moment"] = lambda text: re.sub(r"^(\S{10})T(\d\d:\d\d)\S*Z$", r"\1 \2 UTC", text)
    environment.filters["duration"] = table.duration
    environment.filters["control_name"] = table.control_name
    films = _Films(film_budget_mib * 2**20)
    groups = [_group(group, i, films) for i, group in enumerate(report.groups)]
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    several = len(report.runs) > 1
    text = environment.get_template("page.html.j2").render(
        title=_title(report),
        groups=groups,
        rows=table.headline(report),
        several=several,
        ranges=any(len(g.runs) > 1 for g in report.groups),
        skipped=[*report.skipped, *films.notes],
        style=Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
    )
    return text, list(films.notes)


def _title(report: Report) -> str:
    runs = report.runs
    if len(report.groups) == 1:
        return f"{runs[0].method} on {runs[0].task}"
    tasks = sorted({run.task for run in runs})
    return f"{len(runs)} runs on {', '.join(tasks) if len(tasks) <= 4 else f'{len(tasks)} tasks'}"


def _group(group: Group, index: int, films: "_Films") -> dict[str, Any]:
    key = f"g{index}"
    shared: list[Drawing | None] = (
        [figures.success_bars(group, key=f"{key}-success")] if group.successes else []
    )
    rounds = figures.success_by_round(group.successes, key=f"{key}-rounds")
    curves = figures.learning_curves(group.runs, key=f"{key}-curves")
    controls = group.controls
    main = next((r.alignment.main for r in group.runs if r.alignment and r.alignment.main), None)
    pairs = [r.alignment.judged_pairs for r in group.runs if r.alignment and r.alignment.judged_pairs]
    return {
        "group": group,
        "title": group.title,
        "success": shared[0] if shared else None,
        "rounds": rounds,
        "curves": curves,
        "controls": controls,
        "main_control": main,
        "judged_pairs": pairs,
        "verdict": table.controls_verdict(group),
        "runs": [_run(run, f"{key}r{i}", films) for i, run in enumerate(group.runs)],
    }


def _run(run: Run, key: str, films: "_Films") -> dict[str, Any]:
    alignment = run.alignment
    labels = []
    if alignment is not None:
        labels = [
            matrices.label_matrices(alignment, key=f"{key}-matrix"),
            matrices.confidence_bars(alignment, key=f"{key}-quarters"),
            matrices.couplings(alignment, key=f"{key}-coupling"),
            coupled.coupled_episodes(alignment, run.task, key=f"{key}-coupled"),
        ]
    reward = [figures.reliability(run.reward, key=f"{key}-reliability")] if run.reward else []
    if run.matches is not None:
        reward += [
            matched.matched_frames(run.matches, key=f"{key}-matched"),
            matched.spaces(run.matches, key=f"{key}-space"),
        ]
    longest = max((p.seconds for p in run.phases), default=0.0) or 1.0
    return {
        "run": run,
        "labels": [d for d in labels if d is not None],
        "reward": [d for d in reward if d is not None],
        "cards": [_card(rollout, f"{key}-rollout{i}", films) for i, rollout in enumerate(run.rollouts)],
        "phases": [(p, 100 * p.seconds / longest) for p in run.phases],
        "config": hide_secrets(run.config_text),
        "command": hide_secrets(run.command),
    }


def hide_secrets(text: str) -> str:
    """Replace passwords in URLs and the values of keys that name a secret by three asterisks."""
    name, unset = r"[\w.-]*(?:api_?key|password|passwd|secret|token)\w*", r"null\b|None\b"
    value = rf"(?i)({name}[ \t]*[:=][ \t]*)(?!{unset})[^\s,}}\]]+"
    return re.sub(value, r"\1***", hide_passwords(text))


def _card(rollout: Rollout, key: str, films: "_Films") -> Card:
    film, stills = films.embed(rollout)
    seed = f", seed {rollout.seed}" if rollout.seed is not None else ""
    about = []
    if rollout.drawn_by == "keypoints":
        about.append(f"Drawn from keypoints, not rendered ({rollout.reason or 'no reason was written'}).")
    elif film is None:
        about.append(f"No film: {rollout.reason or 'none was recorded'}.")
    if rollout.predicted is not None:
        correlation = figures.rank_correlation(rollout.predicted, rollout.rewards)
        if correlation is not None:
            about.append(
                f"Rank correlation of predicted and true reward over {len(rollout.rewards)} steps: "
                f"{correlation:.2f}."
            )
    else:
        about.append("No predicted reward was recorded.")
    if rollout.successes.any():
        about.append(f"First success at step {int(rollout.successes.argmax())}.")
    return Card(
        title=f"{rollout.policy}{seed}",
        success=rollout.success,
        film=film,
        stills=stills,
        trace=figures.reward_trace(rollout, key=key),
        steps=len(rollout.rewards),
        about=" ".join(about),
    )


class _Films:
    """Embeds films while their size allows, and remembers which were left out."""

    def __init__(self, budget: float):
        self.budget = budget
        self.notes: list[str] = []

    def embed(self, rollout: Rollout) -> tuple[str | None, tuple[tuple[str, str], ...]]:
        if rollout.video is None:
            return None, ()
        try:
            data = rollout.video.read_bytes()
        except OSError as error:
            raise DataError(f"{rollout.video} cannot be read: {error.strerror or error}.") from error
        stills = self._stills(rollout)
        if len(data) * 4 / 3 > self.budget:
            self.notes.append(f"{rollout.video} is not embedded: the page's budget for films is spent.")
            return None, stills
        self.budget -= len(data) * 4 / 3
        return _data_uri(data, "video/mp4"), stills

    def _stills(self, rollout: Rollout) -> tuple[tuple[str, str], ...]:
        import imageio.v3 as iio
        from PIL import Image

        video = rollout.video
        assert video is not None  # embed() has looked
        try:
            frames = iio.imread(video, plugin="FFMPEG")
        except (OSError, ValueError, RuntimeError, StopIteration, IndexError) as error:
            self.notes.append(
                f"{video} cannot be decoded ({type(error).__name__}: {error}); it may be truncated."
            )
            return ()
        stills = []
        for i in range(FILM_FRAMES):
            at = round(i * (len(frames) - 1) / (FILM_FRAMES - 1))
            picture = Image.fromarray(frames[at])
            picture = picture.resize((FILM_WIDTH, max(1, round(FILM_WIDTH * picture.height / picture.width))))
            buffer = io.BytesIO()
            picture.save(buffer, format="JPEG", quality=82)
            step = round(i * len(rollout.rewards) / (FILM_FRAMES - 1))
            stills.append((_data_uri(buffer.getvalue(), "image/jpeg"), f"step {step}"))
        return tuple(stills)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
