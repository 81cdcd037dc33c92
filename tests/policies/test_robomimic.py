import importlib
import sys

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.policies.robomimic import ALGORITHMS, RobomimicPolicy, read_checkpoint
from robopref.policies.saved import load_policy, save_policy
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog

from .store_of import episode, store_of

pytest.importorskip("six")
KEYS = {"object": 2, "robot0_eef_pos": 1}
SMALL = {"bc_rnn_gmm": {"rnn": {"hidden_dim": 32}}}


@pytest.fixture
def store(tmp_path):
    """Actions are a linear function of what is seen, which stays the same through an episode."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(40):
        seen = np.tile(rng.uniform(-1, 1, 3), (7, 1))
        actions = 0.5 * seen[:-1, :2] - 0.2 * seen[:-1, 2:]
        episodes.append(episode(seen, actions, rng.uniform(0, 1, 6)))
    return store_of(tmp_path / "store", episodes)


def policy_of(algorithm, **options):
    return RobomimicPolicy(3, 2, algorithm=algorithm, hidden=(32,), horizon=4, **options)


def trained(policy, store, tmp_path, steps):
    sampler = policy.prepare_data(store, "true")
    with RunLog(tmp_path, wandb_mode="disabled") as log:
        fit(
            policy,
            sampler,
            steps=steps,
            batch_size=32,
            seed=0,
            fabric=make_fabric("cpu"),
            log=log,
            phase="train-policy",
            directory=tmp_path,
        )
    return policy


def upstream_checkpoint(path, **changes):
    """What robomimic's own train script saves of a policy that nobody trained."""
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory
    from robomimic.utils import obs_utils

    config = config_factory("bc")
    with config.unlocked():
        config.algo.gmm.enabled = True
        config.algo.actor_layer_dims = [16]
        config.observation.modalities.obs.low_dim = list(KEYS)
        for section, values in changes.pop("algo", {}).items():
            config.algo[section].update(values)
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = {key: [size] for key, size in KEYS.items()}
    model = algo_factory("bc", config, shapes, 2, torch.device("cpu"))
    saved = {
        "model": model.serialize(),
        "config": config.dump(),
        "algo_name": "bc",
        "env_metadata": {"env_name": "Lift", "type": 1, "env_kwargs": {}},
        "shape_metadata": {
            "ac_dim": 2,
            "all_shapes": shapes,
            "all_obs_keys": list(shapes),
            "use_images": False,
        },
    }
    torch.save(saved | changes, path)
    return model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_learns_what_the_data_do_and_survives_its_file(algorithm, store, tmp_path):
    policy = policy_of(algorithm, learning_rate=1e-2, settings=SMALL.get(algorithm))
    trained(policy, store, tmp_path / "fit", 80)
    firsts = [store.episode(index) for index in range(6)]
    seen, wanted = (
        torch.from_numpy(np.stack(rows))
        for rows in zip(*((e.observations[0], e.actions[0]) for e in firsts), strict=True)
    )
    with torch.no_grad():
        acted = policy.act(seen)
        again = policy.sample(seen, 3, generator=torch.Generator().manual_seed(1))
        assert torch.equal(policy.sample(seen, 3, generator=torch.Generator().manual_seed(1)), again)
    assert acted.shape == (6, 4 if algorithm == "bc_rnn_gmm" else 1, 2)
    assert again.shape == (6, 3, *acted.shape[1:])
    assert (acted[:, 0] - wanted).square().mean() < 0.3 * wanted.square().mean()
    save_policy(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded.act(seen), acted)
        assert torch.equal(loaded.score(seen, acted), policy.score(seen, acted))


def test_the_loss_is_robomimics_own(store):
    policy = policy_of("bc_gmm")
    batch = policy.prepare_data(store).sample(16, torch.Generator().manual_seed(0))
    upstream = policy._upstream
    inputs = {"obs": policy.actor.named(batch["observations"]), "goal_obs": None, "actions": batch["actions"]}
    theirs = upstream._compute_losses(upstream._forward_training(inputs), inputs)["action_loss"]
    assert policy.loss(batch)[0].item() == pytest.approx(theirs.item(), rel=1e-6)


def test_equal_seeds_have_equal_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second, other = (policy_of("iql", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    weights = [torch.nn.utils.parameters_to_vector(policy.parameters()) for policy in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_checkpoint_of_robomimic_acts_as_it_did_there(tmp_path):
    model = upstream_checkpoint(tmp_path / "model.pth")
    policy = read_checkpoint(tmp_path / "model.pth", KEYS)
    assert isinstance(policy, RobomimicPolicy)
    seen = torch.rand(5, 3)
    named = {"object": seen[:, :2], "robot0_eef_pos": seen[:, 2:]}
    model.nets.eval()
    with torch.no_grad():
        actions = torch.rand(5, 1, 2)
        theirs = model.nets["policy"].forward_train(named).log_prob(actions[:, 0])
        assert policy.score(seen, actions) == pytest.approx(theirs, abs=1e-6)
    save_policy(tmp_path / "ours", policy)
    with torch.no_grad():
        assert torch.equal(load_policy(tmp_path / "ours").score(seen, actions), policy.score(seen, actions))


class Spy:
    """Pickles as a call."""

    called = False

    def __reduce__(self):
        return setattr, (Spy, "called", True)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    upstream_checkpoint(tmp_path / "evil.pth", extra=Spy())
    with pytest.raises(DataError, match="would have to be executed"):
        read_checkpoint(tmp_path / "evil.pth", KEYS)
    assert not Spy.called


@pytest.mark.parametrize(
    ("changes", "keys", "sentence"),
    [
        ({"algo_name": "hbc"}, KEYS, "holds hbc"),
        ({"algo": {"rnn": {"enabled": True}}}, KEYS, "not open-loop"),
        ({"algo": {"vae": {"enabled": True}}}, KEYS, "robopref reads bc_gaussian"),
        ({}, {"object": 3}, "was trained on the observations"),
        ({"model": {}}, KEYS, "does not fit the networks"),
        ({"algo_name": "diffusion_policy"}, KEYS, "holds diffusion_policy; robopref reads bc_gaussian"),
        ({"config": "{"}, KEYS, "is damaged: its config or shape_metadata describes no policy"),
        ({"config": '{"algo": {}}'}, KEYS, "is damaged: its config"),
        ({"shape_metadata": {"all_shapes": 3}}, KEYS, "is damaged: its config or shape_metadata"),
        ({"obs_normalization_stats": {"object": {"mean": np.zeros(2)}}}, KEYS, "hdf5_normalize_obs"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(changes, keys, sentence, tmp_path):
    upstream_checkpoint(tmp_path / "model.pth", **changes)
    with pytest.raises(DataError, match=sentence):
        read_checkpoint(tmp_path / "model.pth", keys)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "model.pth", KEYS)
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(DataError, match="damaged"):
        read_checkpoint(tmp_path / "model.pth", KEYS)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(DataError, match="it lacks algo_name, config, model, shape_metadata"):
        read_checkpoint(tmp_path / "model.pth", KEYS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"algorithm": "bc_gm"}, "Did you mean 'bc_gmm'"),
        ({"algorithm": "bc_gmm", "keys": {"object": 2}}, "An observation has 3 entries"),
        ({"algorithm": "bc_gmm", "settings": {"gmn": {}}}, "Did you mean 'gmm'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        RobomimicPolicy(3, 2, **options)


def test_without_six_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "robomimic"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "six", None)
    with pytest.raises(ImportError, match=r"pip install 'robopref\[robomimic\]'"):
        policy_of("iql")
    monkeypatch.undo()
    importlib.import_module("robomimic.algo")
