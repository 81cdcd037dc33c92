"""From configuration nodes to the parts that methods take; the only place where Hydra instantiates."""

import dataclasses
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from robopref.cli.nodes import listed, plain
from robopref.cli.types import check_types, make, make_of, mapping
from robopref.errors import ConfigError, unknown_name
from robopref.methods.components import (
    Collection,
    Component,
    EvaluationPlan,
    Fit,
    Hardware,
    LearnedFrom,
    Sampling,
    Scene,
)
from robopref.methods.deformpam import DeformPAM, Selection
from robopref.methods.direct import Direct, Questions
from robopref.methods.grape import Grape, Variant
from robopref.methods.pearl import Pearl
from robopref.methods.phases.comparisons import Comparisons
from robopref.methods.phases.vla_how import KINDS, Alignment
from robopref.methods.phases.vla_scores import Judge
from robopref.methods.phases.vla_trials import Axis
from robopref.methods.rapl import Camera, Ranked, Rapl
from robopref.policies.vla.lora import Adapter
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.rewards.staged.pairs import Pairing
from robopref.rewards.staged.scores import ScoreWeights
from robopref.training.aligning import AligningPlan
from robopref.training.symmetry import Symmetry


def pearl(config: DictConfig) -> Pearl:
    """Build the parts of PEARL from a composed ``run`` configuration."""
    return make(
        Pearl,
        **shared(config),
        anchor_pairs=config.anchor_pairs,
        anchor_query=config.anchor_query,
        anchors_from=config.anchors_from,
        film_coupling=config.film_coupling,
        reward=component(config.reward),
        reward_fit=fit(config, "reward"),
        clone_fit=fit(config, "clone"),
        preferences_fit=fit(config, "preferences"),
        baselines={
            name: LearnedFrom(component(baseline.policy), str(baseline.rewards).lower())
            for name, baseline in config.baselines.items()
        },
    )


def direct(config: DictConfig) -> Direct:
    """Build the parts of direct preference optimisation from a composed ``run`` configuration."""
    return make(
        Direct,
        **shared(config),
        labels_from=config.labels_from,
        questions=make(Questions, **config.questions),
        clone_fit=fit(config, "clone"),
    )


def grape(config: DictConfig) -> Grape:
    """Build the parts of GRAPE from a composed ``run`` configuration."""
    given, usual = mapping("grape", plain(config.grape)), _shipped("grape")
    for name in given:
        if name not in usual:
            raise ConfigError(unknown_name("option", f"grape.{name}", [f"grape.{one}" for one in usual]))
    alignment = mapping("grape.alignment", given.get("alignment"))
    variants = mapping("grape.variants", given.get("variants", {}))
    shipped = [usual, _shipped("grape_full")]
    if "kind" not in alignment:
        raise ConfigError(f"grape.alignment lacks kind: one of {', '.join(KINDS)}")
    judge = mapping("grape.judge", given.get("judge"))
    policy = config.policy._target_
    if not issubclass(hydra.utils.get_object(policy), SeeingPolicy):
        raise ConfigError(
            "GRAPE aligns a policy that sees: policy=vla, vla_gaussian, vla_flow, vla_diffusion or openvla, "
            f"got {policy}"
        )
    return make(
        Grape,
        scenes=[scene(config, task) for task in _texts("grape.tasks", listed(given.get("tasks", [])))],
        camera=given.get("camera"),
        demonstrations=make_of(
            Collection, "grape.demonstrations", given.get("demonstrations"), seed=config.seed
        ),
        data_dir=Path(config.data_dir),
        policy=component(config.policy),
        supervised=given.get("supervised"),
        supervised_fit=fit(config, "clone"),
        align_fit=fit(config, "policy"),
        sampling=make_of(Sampling, "grape.rollouts", given.get("rollouts")),
        judge=make_of(
            Judge,
            "grape.judge",
            {
                **judge,
                **{name: _paths(f"grape.judge.{name}", judge.get(name)) for name in ("models", "files")},
            },
            emphasis=given.get("emphasis"),
            weights=make_of(ScoreWeights, "grape.weights", given.get("weights")),
            pairing=make_of(Pairing, "grape.pairing", given.get("pairing")),
        ),
        rounds=given.get("rounds"),
        validation=given.get("validation"),
        main=_alignment(_without_unread(alignment, alignment, usual["alignment"])),
        variants={
            name: _variant(alignment, mapping(f"grape.variants.{name}", how))
            for name, how in variants.items()
        },
        axes={
            name: _axis(name, how, variants, [one["axes"].get(name, {}) for one in shipped])
            for name, how in mapping("grape.axes", given.get("axes", {})).items()
        },
        episodes=config.training.evaluation.episodes,
        seed=config.seed,
        hardware=hardware(config),
    )


def _texts(where: str, values: list[Any]) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise ConfigError(f"{where} must hold text, got {value!r}")
    return values


def _paths(where: str, given: Any) -> dict[str, str]:
    found = mapping(where, given)
    return dict(zip(found, _texts(where, list(found.values())), strict=True))


def _shipped(experiment: str) -> dict[str, Any]:
    """Return ``grape`` as an experiment comes: what differs from it was said by somebody."""
    path = Path(__file__).parent.parent / "conf" / "experiment" / f"{experiment}.yaml"
    return plain(OmegaConf.load(path).grape)


def _without_unread(
    alignment: dict[str, Any], chosen: dict[str, Any], unsaid: dict[str, Any]
) -> dict[str, Any]:
    """Return an alignment without what nobody said and ``chosen``, which decides of it, does not read."""
    unread = set(Alignment.unread(chosen["kind"]))
    if chosen["kind"] == "preference" and chosen.get("segment") != "window":
        unread.add("windows")
    return {k: v for k, v in alignment.items() if not (k in unread and k in unsaid and v == unsaid[k])}


def _variant(alignment: dict[str, Any], given: dict[str, Any]) -> Variant:
    """Return an alignment that differs from the main one in what is given."""
    own = {name: given[name] for name in ("emphasis", "gap", "rounds") if name in given}
    how = {name: value for name, value in given.items() if name not in own}
    shared = _without_unread(alignment, {**alignment, **how}, alignment)
    return make(Variant, how=_alignment({**shared, **how}), **own)


def _alignment(given: dict[str, Any]) -> Alignment:
    if given.get("adapter") is not None:
        make_of(Adapter, "adapter", given["adapter"])
    made = make(Alignment, **given)
    made.refuse_unread(given)
    return made


def _axis(name: str, options: Any, variants: dict[str, Any], shipped: list[dict[str, Any]]) -> Axis:
    """Return an axis; of those whom an experiment itself tries along it, without who was left out."""
    given = mapping(f"grape.axes.{name}", options)
    tried = given.get("variants")
    if isinstance(tried, list) and tried in [axis.get("variants") for axis in shipped]:
        given = {**given, "variants": [name for name in tried if name in variants]}
    mapping(f"grape.axes.{name}.view", given.get("view", {}))
    return make(Axis, **given)


def rapl(config: DictConfig) -> Rapl:
    """Build the parts of RAPL from a composed ``run`` configuration."""
    aligning, rollouts = plain(config.aligning), plain(config.rollouts)
    gap = rollouts.pop("gap")
    return make(
        Rapl,
        target=scene(config),
        collection=collection(config),
        data_dir=Path(config.data_dir),
        labels=config.labels,
        queries=config.queries,
        teacher=component(config.teacher),
        camera=make(Camera, **plain(config.camera)),
        encoder=plain(config.encoder),
        frame_reward=component(config.frame_reward),
        aligning=make(
            AligningPlan, **{k: tuple(v) if isinstance(v, list) else v for k, v in aligning.items()}
        ),
        demonstrations=config.demonstrations,
        policy=component(config.policy),
        policy_fit=fit(config, "policy"),
        ranked=make(
            Ranked,
            sampling=make(Sampling, **rollouts),
            gap=gap,
            clone_fit=fit(config, "clone"),
            fit=fit(config, "preferences"),
            comparisons=comparisons(config),
        ),
        evaluation=make_of(EvaluationPlan, "training.evaluation", plain(config.training.evaluation)),
        baselines={
            name: LearnedFrom(component(baseline.policy), str(baseline.rewards).lower())
            for name, baseline in config.baselines.items()
        },
        held_out=config.training.held_out,
        seed=config.seed,
        hardware=hardware(config),
    )


def deformpam(config: DictConfig) -> DeformPAM:
    """Build the parts of DeformPAM from a composed ``run`` configuration."""
    wanted = {field.name for field in dataclasses.fields(DeformPAM)}
    return make(
        DeformPAM,
        **{name: part for name, part in shared(config).items() if name in wanted},
        reward=component(config.reward),
        selection=make(Selection, **plain(config.selection)),
        symmetry=None if config.symmetry is None else make(Symmetry, **plain(config.symmetry)),
        clone_fit=fit(config, "clone"),
        reward_fit=fit(config, "reward"),
    )


def shared(config: DictConfig) -> dict[str, Any]:
    """Build the parts that every experiment has."""
    alignment = plain(config.alignment)
    sources = listed(alignment.pop("sources"))
    return {
        "target": scene(config),
        "sources": [scene(config, task) for task in sources],
        "collection": collection(config),
        "data_dir": Path(config.data_dir),
        "teacher": component(config.teacher),
        "alignment": component(alignment),
        "policy": component(config.policy),
        "policy_fit": fit(config, "policy"),
        "evaluation": make_of(EvaluationPlan, "training.evaluation", plain(config.training.evaluation)),
        "held_out": config.training.held_out,
        "max_pairs": config.training.max_pairs,
        "comparisons": comparisons(config),
        "seed": config.seed,
        "hardware": hardware(config),
    }


def component(settings: DictConfig | dict[str, Any]) -> Component:
    """Describe a part by its settings; building it checks them against the constructor."""
    values = settings if isinstance(settings, dict) else plain(settings)
    constructor = hydra.utils.get_object(values["_target_"])
    if missing := [name for name, value in values.items() if value == "???"]:
        words = (
            settings._get_full_key(name) if isinstance(settings, DictConfig) else name for name in missing
        )
        raise ConfigError(f"{constructor.__name__} lacks {' '.join(f'{word}=<...>' for word in words)}")
    check_types(constructor, values, owner=f"{constructor.__name__}: ")

    def build(**arguments: Any) -> Any:
        try:
            return hydra.utils.instantiate({**values, "_convert_": "all"}, **arguments)
        except InstantiationException as error:
            cause = error.__cause__ or error
            raise ConfigError(f"{values.get('_target_', values)}: {cause}") from error

    return Component(values, build)


def scene(config: DictConfig, task: str | None = None) -> Scene:
    """Return the simulated task of a configuration, or the same scene with another task."""
    env = config.env
    if task is not None:
        env = OmegaConf.merge(config, {"env": {"task": task}}).env
    values = plain(env)
    return Scene(values["task"], values["id"], values["options"], values.get("view") or {})


def comparisons(config: DictConfig) -> Comparisons:
    """Return what is made of labelled pairs."""
    return make_of(Comparisons, "training.labels", plain(config.training.labels))


def fit(config: DictConfig, what: str) -> Fit:
    """Return the training budget of the reward or the policy."""
    return make_of(
        Fit,
        f"training.{what}",
        plain(config.training).get(what),
        checkpoint_every=config.training.checkpoint_every,
        log_every=config.training.log_every,
    )


def hardware(config: DictConfig) -> Hardware:
    """Return where things run."""
    return make(
        Hardware,
        device=str(config.device),
        precision=str(config.precision),
        threads=config.threads,
        workers=config.workers,
        processes=config.processes,
        wandb_mode=str(config.wandb.mode),
        wandb_project=str(config.wandb.project),
    )


def collection(config: DictConfig) -> Collection:
    """Return how episodes are collected."""
    return make(Collection, behaviours=plain(config.behaviours), episodes=config.episodes, seed=config.seed)
