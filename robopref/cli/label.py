"""``robopref label``: people judge clips in the browser."""

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from robopref.cli.nodes import listed, plain, required
from robopref.cli.show import say, verb
from robopref.cli.sources import labelled_sources
from robopref.data.judgement import Feedback
from robopref.data.label_store import LabelStore
from robopref.data.queries import ALIGNMENT
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, MissingExtraError, counted, hide_passwords, unknown_name

if TYPE_CHECKING:
    from robopref.data.footage import Footage, Scene
    from robopref.labeling.asking import Asking
    from robopref.labeling.desk import Desk
    from robopref.labeling.online import Online
    from robopref.labeling.plan import Plan

QUESTIONS: dict[Feedback, str] = {
    "pair": "Which robot does the task better?",
    "updown": "Does the robot do the task well?",
    "ranking": "Which robot does the task better?",
}
ITEMS: dict[Feedback, str] = {"pair": "pair", "updown": "clip", "ranking": "list"}


@verb
def label(config: DictConfig) -> None:
    """Serve the labelling page until ctrl-C."""
    try:
        from robopref.labeling.app import Study, build_app
        from robopref.labeling.serve import address, bind, choose_token, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise
        raise MissingExtraError(
            f"The labelling page needs {error.name}, which is not installed: pip install 'robopref[label]'"
        ) from error
    from robopref.data.label_tokens import AnnotatorTokens
    from robopref.labeling.answers import annotator_name
    from robopref.labeling.clips import Library, steps_per_frame
    from robopref.labeling.desk import Desk
    from robopref.labeling.studio import SOON, Studio

    source = Path(required(config, "data", "a trajectory store, or a data set of another format"))
    store, cameras, scenes = _episodes(config, source)
    if config.workers < 1:
        raise ConfigError(
            f"workers must be 1 or more, since clips are made beside the page; got {config.workers}."
        )
    annotator = None if config.annotator is None else annotator_name(str(config.annotator))
    token = choose_token(config.host, config.token)
    feedback = _feedback(config)
    _check_query(config, feedback)
    plan = _plan(config, store, feedback)
    study = Study(
        task=store.provenance(0).task,
        question=str(config.question or QUESTIONS[feedback]),
        strength=bool(config.strength),
        annotator=annotator,
        feedback=feedback,
        steps_per_frame=steps_per_frame(store.control_hz),
    )
    url = config.labels or f"sqlite:///{Path(store.path) / 'labels.sqlite'}"
    with LabelStore(url) as labels, bind(config.host, config.port) as taken:
        asks = asking(config, plan, store, labels) if config.query == ALIGNMENT else None
        desk = Desk(plan, labels, store, repeated=config.repeated, mirrored=config.mirrored, asking=asks)
        before = labels.count(source="human")
        clips = Path(config.clips or Path(store.path) / "clips")
        studio = Studio(Library(store, clips, plain(config.view), cameras, scenes), config.workers)
        for segment in {s for item in desk.upcoming(annotator or "", 2) for s in item}:
            studio.order(segment, SOON)  # while the browser starts
        annotators = AnnotatorTokens(url) if token else None
        online = learning(config, desk, labels, store) if config.online else None
        app = build_app(
            desk,
            studio,
            study,
            token=token,
            annotators=annotators,
            learning=online.status if online else None,
        )
        what = counted(plan.limit, ITEMS[feedback])
        say(f"{what} of {store.path}; {counted(before, 'human answer')} in {hide_passwords(url)}")
        with contextlib.ExitStack() as stack:
            if annotators is not None:
                stack.callback(annotators.close)
            if online is not None:
                online.start()
                stack.callback(online.close)
            serve(app, taken, address(taken, token), open_browser=config.open_browser)
        after = labels.count(source="human")
        say(f"\nStopped. {counted(after, 'human answer')} in {hide_passwords(url)}")
        if asks is not None:
            _say_what_follows(config, store, labels)


def _episodes(
    config: DictConfig, source: Path
) -> tuple[TrajectoryStore, "list[list[Footage]]", "list[Scene]"]:
    """Open the data, read into a store first where it is none; find what shows it: cameras, and scenes."""
    from robopref.data.interchange.footage import cameras_of, chosen_cameras
    from robopref.data.interchange.imported import is_foreign, place_of, read_in
    from robopref.data.interchange.scenes import scenes_of

    camera = config.camera
    wanted = [camera] if isinstance(camera, str) else None if camera is None else plain(camera)
    if not is_foreign(source):
        if wanted:
            raise ConfigError(
                "camera= chooses among the cameras of a recording. Of a trajectory store, "
                "+view.camera=<name> says which camera of the simulator draws."
            )
        store = TrajectoryStore.open(source)
        if not len(store):
            raise DataError(f"{store.path} holds no episodes. Collect some with robopref collect.")
        return store, [], []
    cameras = cameras_of(source)
    shown = chosen_cameras(cameras, wanted)
    if not place_of(source, Path(config.imports)).exists():
        say(f"Reading {source}, which is kept for the next time.")
    made = read_in(source, Path(config.imports))
    if made.new:
        say(f"{made.new} episodes of {source} were read into {made.path}; nothing is written to {source}.")
        for note in made.notes:
            say(f"  {note}")
    others = ", ".join(name for name in cameras if name not in shown)
    if shown:
        say(f"Shown: {', '.join(shown)}." + (f" There are also: {others} (camera=<name>)." if others else ""))
    return TrajectoryStore.open(made.path), [cameras[name] for name in shown], scenes_of(source)


def _feedback(config: DictConfig) -> Feedback:
    """Return what is asked, having refused options that only pairs know."""
    feedback = config.feedback
    if feedback not in QUESTIONS:
        raise ConfigError(unknown_name("feedback", str(feedback), QUESTIONS))
    asked = [f"{name}={config[name]}" for name in ("strength", "gold", "online") if config[name]]
    if feedback != "pair" and asked:
        raise ConfigError(f"{', '.join(asked)}: only feedback=pair knows that; this is feedback={feedback}.")
    return feedback


def _plan(config: DictConfig, store: TrajectoryStore, feedback: Feedback) -> "Plan":
    """Choose what is asked about."""
    from robopref.labeling.candidates import candidate_lists
    from robopref.labeling.items import make_items
    from robopref.labeling.plan import make_plan

    which = {"seed": config.seed, "shared": config.shared}
    if config.query == ALIGNMENT:
        from robopref.labeling.asking import pairs_to_ask  # only here: it needs the alignment's libraries

        return pairs_to_ask(store, pairs=config.pairs, **which)
    if feedback == "ranking" and config.query == "candidates":
        return candidate_lists(store, items=config.pairs, clips=config.k, **which)
    which |= {
        name: config[name] for name in ("segment_length", "query", "random_share", "pool", "reward_dir")
    }
    if feedback == "pair":
        return make_plan(store, pairs=config.pairs, gold=config.gold, online=config.online, **which)
    return make_items(store, feedback, items=config.pairs, clips=config.k, **which)


def asking(config: DictConfig, plan: "Plan", store: TrajectoryStore, labels: LabelStore) -> "Asking":
    """Prepare the transfer whose questions people answer."""
    labels.check_data(store)  # before anything that takes long
    sources = labelled_sources(listed(plain(config.sources)), store, config.source_labels)
    from robopref.cli.build import component  # only now: torch takes seconds to import
    from robopref.labeling.asking import Asking
    from robopref.methods.phases.align import prepare

    say(f"Preparing the transfer from {', '.join(sources)}.")
    ready = prepare(component(config.alignment), sources, store, config.seed)
    return Asking(ready, plan, seed=config.seed)


def _say_what_follows(config: DictConfig, store: TrajectoryStore, labels: LabelStore) -> None:
    """Say how the answers are carried over, if there is one that can be."""
    from robopref.methods.phases.align import between_whole_episodes

    known = labels.preferences(source=["human", "teacher"])  # as robopref align reads anchors
    if not len(between_whole_episodes(known, store)):
        return say(
            "Nothing can be carried over yet: no answer says which of two whole episodes is better, or that "
            "none is, and skipped pairs say nothing. The same command goes on."
        )
    say("A run that waits for them is given again as it was. Without one, carry the labels over by:")
    if hide_passwords(labels.url) != labels.url:
        say("In the command that carries the labels over, put the password in place of ***:")
    print(_transfer_command(config, store, labels.url), flush=True)  # whole, so that it can be copied


def _transfer_command(config: DictConfig, store: TrajectoryStore, url: str) -> str:
    """Return the command that carries labels over with what people said, by the transfer that asked them."""
    from robopref.cli.build import component
    from robopref.methods.phases.align import overrides

    options = {"sources": f"[{','.join(listed(plain(config.sources)))}]", "target": store.path}
    if config.source_labels is not None:
        options["source_labels"] = config.source_labels
    options |= {"anchors": hide_passwords(url), "seed": config.seed}
    words = [*(f"{name}={value}" for name, value in options.items()), *overrides(component(config.alignment))]
    return f"robopref align alignment=auto {shlex.join(words)}"


def _check_query(config: DictConfig, feedback: Feedback) -> None:
    """Refuse options that do not go with the alignment's questions, and sources without them."""
    if config.query != ALIGNMENT:
        usual = OmegaConf.load(Path(__file__).parent.parent / "conf" / "alignment" / "auto.yaml")
        others = [name for name in ("sources", "source_labels") if config[name] is not None]
        others += ["alignment"] * (config.alignment != usual)
        if others:
            raise ConfigError(
                f"{'=, '.join(others)}= belong to query=alignment, which asks what tells a transfer most; "
                f"this is query={config.query}."
            )
        return
    if config.sources is None:
        raise ConfigError(
            "query=alignment asks what tells a transfer most, and needs its sources: say "
            "sources=[<labelled stores of other tasks>]."
        )
    others = [n for n in ("segment_length", "gold", "online", "reward_dir") if config[n]]
    if feedback != "pair" or others:
        raise ConfigError(
            "query=alignment asks about pairs of whole episodes, none of them a check: leave out "
            f"{', '.join(others or ['feedback'])}."
        )


def learning(config: DictConfig, desk: "Desk", labels: LabelStore, store: TrajectoryStore) -> "Online":
    """Build what learns while people label."""
    from robopref.labeling.online import Online

    return Online(
        desk,
        labels,
        store,
        Path(config.online_dir or Path(store.path) / "online"),
        query=config.query,
        random_share=config.random_share,
        seed=config.seed,
        every=config.every,
    )
