"""From configuration nodes to the parts that methods take; the only place where Hydra instantiates."""

from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robopref.errors import ConfigError
from robopref.methods.components import (
    Collection,
    Component,
    EvaluationPlan,
    Fit,
    Hardware,
    LearnedFrom,
    Scene,
)
from robopref.methods.direct import Direct, Questions
from robopref.methods.pearl import Pearl


def pearl(config: DictConfig) -> Pearl:
    """Build the parts of PEARL from a composed ``run`` configuration."""
    training = config.training
    alignment = plain(config.alignment)
    sources = alignment.pop("sources")
    return Pearl(
        target=scene(config),
        sources=[scene(config, task) for task in sources],
        collection=Collection(plain(config.behaviours), config.episodes, config.seed),
        data_dir=Path(config.data_dir),
        teacher=component(config.teacher),
        alignment=component(alignment),
        reward=component(config.reward),
        policy=component(config.policy),
        reward_fit=fit(config, "reward"),
        policy_fit=fit(config, "policy"),
        evaluation=EvaluationPlan(**training.evaluation),
        baselines={
            name: LearnedFrom(component(baseline.policy), str(baseline.rewards).lower())
            for name, baseline in config.baselines.items()
        },
        held_out=training.held_out,
        max_pairs=training.max_pairs,
        seed=config.seed,
        hardware=hardware(config),
    )


def direct(config: DictConfig) -> Direct:
    """Build the parts of direct preference optimisation from a composed ``run`` configuration."""
    training = config.training
    alignment = plain(config.alignment)
    sources = alignment.pop("sources")
    return Direct(
        target=scene(config),
        sources=[scene(config, task) for task in sources],
        collection=Collection(plain(config.behaviours), config.episodes, config.seed),
        data_dir=Path(config.data_dir),
        labels_from=config.labels_from,
        questions=Questions(**config.questions),
        teacher=component(config.teacher),
        alignment=component(alignment),
        policy=component(config.policy),
        clone_fit=fit(config, "clone"),
        policy_fit=fit(config, "policy"),
        evaluation=EvaluationPlan(**training.evaluation),
        held_out=training.held_out,
        max_pairs=training.max_pairs,
        seed=config.seed,
        hardware=hardware(config),
    )


def plain(node: Any) -> Any:
    """Return a resolved copy of a node as dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True)


def component(settings: DictConfig | dict[str, Any]) -> Component:
    """Describe a part by its settings; building it checks them against the constructor."""
    values = settings if isinstance(settings, dict) else plain(settings)

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
    return Scene(values["task"], values["id"], values["options"])


def fit(config: DictConfig, what: str) -> Fit:
    """Return the training budget of the reward or the policy."""
    return Fit(
        **config.training[what],
        checkpoint_every=config.training.checkpoint_every,
        log_every=config.training.log_every,
    )


def hardware(config: DictConfig) -> Hardware:
    """Return where things run."""
    return Hardware(
        str(config.device),
        str(config.precision),
        config.threads,
        config.workers,
        config.wandb.mode,
        config.wandb.project,
    )


def required(config: DictConfig, key: str, meaning: str) -> Any:
    """Return an option without a default, or say what it should hold."""
    try:
        return config[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}=<...> is missing: {meaning}.") from error
