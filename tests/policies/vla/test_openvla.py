"""OpenVLA as it is published, a few thousand numbers of it: what is read and refused, learned and saved."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopref.cli import main
from robopref.errors import ConfigError, DataError
from robopref.methods.components import Fit, Hardware
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla import train_supervised
from robopref.policies.vla.openvla import OpenVLAPolicy
from robopref.policies.vla.saved import load_beside, load_vla, save_vla
from robopref.training.run import Run
from tests.methods.test_grape import SHORT, SMALL
from tests.policies.vla.toy_openvla import VOCABULARY, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path)


def changed(path, change):
    """Write the checkpoint's tensors or its configuration again, changed."""
    tensors = load_file(path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))


def test_it_loads_by_name_and_acts_in_the_range_of_its_data(checkpoint):
    policy = OpenVLAPolicy(checkpoint, dtype="float32")
    held = load_file(checkpoint / "model.safetensors")
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, held[name])
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    seen = policy.see(frames, ["pick up the cup"] * 2)
    actions = policy.sample(seen, 50, generator=torch.Generator().manual_seed(0))
    assert actions.shape == (2, 50, 1, 2)
    assert float(actions[..., 0].min()) >= 0.0
    assert float(actions[..., 0].max()) <= 0.5
    assert float(actions[..., 1].min()) < 0


def test_half_precision_scores_as_single_precision_does_and_its_adapter_learns_in_single(checkpoint):
    single = OpenVLAPolicy(checkpoint, dtype="float32")
    half = OpenVLAPolicy(checkpoint, adapter={"rank": 2})
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    seen = single.see(frames, ["pick up the cup"] * 2)
    actions = single.act(seen)
    found = half.score(seen, actions)
    assert torch.allclose(found, single.score(seen, actions), atol=0.05)
    found.sum().backward()
    kinds = {"lora_" in name: p.dtype for name, p in half.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert half.act(seen).shape == (2, 1, 2)


def test_action_tokens_are_the_last_of_the_vocabulary_counted_down(checkpoint):
    """Token = V - digitize(a), with V the vocabulary without its padding."""
    policy = OpenVLAPolicy(checkpoint, dtype="float32")
    digits = policy.bins.encode(torch.tensor([-1.0, 0.0, 1.0])) + 1
    expected = np.digitize([-1.0, 0.0, 1.0], np.linspace(-1, 1, 256))
    assert digits.tolist() == expected.tolist()
    assert policy.model.action_end == VOCABULARY


def test_features_are_those_before_the_last_block_and_pooling_is_not_built(checkpoint):
    policy = OpenVLAPolicy(checkpoint, dtype="float32")
    names = [name for name, _ in policy.model.named_parameters()]
    assert any("featurizer.blocks.1." in name for name in names)
    assert not any("featurizer.blocks.2." in name for name in names)
    assert not any("attn_pool" in name for name in names)


def test_shards_give_the_same_model(checkpoint, tmp_path):
    whole = OpenVLAPolicy(checkpoint, dtype="float32")
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, checkpoint / file)
    weight_map = {name: file for file, chosen in parts.items() for name in chosen}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (checkpoint / "model.safetensors").unlink()
    again = OpenVLAPolicy(checkpoint, dtype="float32")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_surplus_tensor_is_named_with_its_shard(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({"bogus": torch.zeros(1)}, checkpoint / "b.safetensors")
    weight_map = {**dict.fromkeys(tensors, "model.safetensors"), "bogus": "b.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        DataError, match=rf"'bogus'\] \(1 in all, the first in {checkpoint / 'b.safetensors'}"
    ):
        OpenVLAPolicy(checkpoint, dtype="float32")


def test_missing_and_surplus_tensors_are_named(checkpoint):
    def change(tensors, config):
        del tensors["projector.fc2.bias"]
        tensors["language_model.extra.weight"] = torch.zeros(1)

    changed(checkpoint, change)
    with pytest.raises(DataError, match=r"missing \['projector.fc2.bias'\].*language_model.extra.weight"):
        OpenVLAPolicy(checkpoint)


def test_a_model_that_does_not_look_is_refused(checkpoint):
    changed(checkpoint, lambda tensors, config: tensors["projector.fc3.weight"].zero_())
    with pytest.raises(DataError, match=f"^The model in {checkpoint} .* black and a white frame alike"):
        OpenVLAPolicy(checkpoint, dtype="float32")


def test_a_model_with_damaged_weights_is_refused_by_its_directory(checkpoint):
    changed(checkpoint, lambda tensors, config: tensors["projector.fc3.weight"].fill_(float("nan")))
    with pytest.raises(DataError, match=f"^The model in {checkpoint} answers with NaN or infinity"):
        OpenVLAPolicy(checkpoint, dtype="float32")


@pytest.mark.parametrize(("dtype", "part"), [("float32", 1e-8), ("bfloat16", 1e-5)])
def test_a_model_whose_frames_move_no_more_than_rounding_is_refused(checkpoint, dtype, part):
    """What the image path adds is so small that logits of black and white differ, by rounding alone."""
    changed(checkpoint, lambda tensors, config: tensors["projector.fc3.weight"].mul_(part))
    with pytest.raises(DataError, match="black and a white frame alike"):
        OpenVLAPolicy(checkpoint, dtype=dtype)


def test_a_tokenizer_that_does_not_fit_is_refused_by_its_file(checkpoint):
    file = checkpoint / "tokenizer.json"
    whole = json.loads(file.read_text())
    template = whole["post_processor"]
    behind = {**template, "single": [*template["single"], template["single"][0]]}
    for own in (None, behind):
        file.write_text(json.dumps({**whole, "post_processor": own}))
        with pytest.raises(
            DataError, match=r"tokenizer\.json must put one token of its own before a text and"
        ):
            OpenVLAPolicy(checkpoint, dtype="float32")
    words = {**whole["model"]["vocab"], "cup": 9_999}
    file.write_text(json.dumps({**whole, "model": {**whole["model"], "vocab": words}}))
    with pytest.raises(DataError, match=r"tokenizer.json has a token numbered 9999, but the model's end at"):
        OpenVLAPolicy(checkpoint, dtype="float32")


def test_a_tokenizer_of_another_size_is_refused(checkpoint):
    changed(checkpoint, lambda tensors, config: config.update(pad_to_multiple_of=63))
    with pytest.raises(DataError, match="another model's tokenizer"):
        OpenVLAPolicy(checkpoint)


def test_a_wrong_shape_and_a_truncated_file_are_refused(checkpoint):
    changed(checkpoint, lambda tensors, config: config["text_config"].update(intermediate_size=25))
    with pytest.raises(DataError, match=r"is \(24, 16\), not \(25, 16\)|is \(16, 24\), not \(16, 25\)"):
        OpenVLAPolicy(checkpoint)
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="no readable safetensors"):
        OpenVLAPolicy(checkpoint)


def test_the_data_set_must_be_one_of_the_checkpoints(checkpoint):
    with pytest.raises(ConfigError, match="bridge_orig"):
        OpenVLAPolicy(checkpoint, statistics="bridge")
    with pytest.raises(ConfigError, match="type of numbers"):
        OpenVLAPolicy(checkpoint, dtype="int4")
    with pytest.raises(ConfigError, match="weights must be int4 or null"):
        OpenVLAPolicy(checkpoint, weights="int8")
    with pytest.raises(ConfigError, match="actions of 2 entries"):
        OpenVLAPolicy(checkpoint, action_size=4)


def test_four_bit_weights_act_and_score_nearly_alike_and_nothing_moves_without_an_adapter(checkpoint):
    plain = OpenVLAPolicy(checkpoint, dtype="float32")
    small = OpenVLAPolicy(checkpoint, dtype="float32", weights="int4")
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    seen = plain.see(frames, ["pick up the cup"] * 2)
    chunks = plain.act(seen)
    before, after = plain.score(seen, chunks), small.score(seen, chunks)
    assert not torch.equal(before, after)
    assert float((before - after).abs().max()) < 0.5 * float(before.abs().max())
    with pytest.raises(ConfigError, match="Nothing of this policy may move"):
        small.parameter_groups()


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, "int4"])
def test_only_its_adapter_is_saved_and_comes_back_on_the_checkpoint(checkpoint, tmp_path, weights):
    options = {"dtype": "float32", "weights": weights, "adapter": {"rank": 2}}
    policy = OpenVLAPolicy(checkpoint, **options)
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    seen = policy.see(frames, ["pick up the cup"] * 2)
    chunks = policy.act(seen)
    optimiser = torch.optim.Adam(policy.parameter_groups())
    for _ in range(2):
        optimiser.zero_grad()
        (-policy.score(seen, chunks).mean()).backward()
        optimiser.step()
    save_vla(tmp_path / "saved", policy)
    held = load_file(tmp_path / "saved" / "model.safetensors")
    assert held
    assert all("lora_" in name for name in held)
    again = load_vla(tmp_path / "saved")
    assert torch.equal(again.score(seen, chunks), policy.eval().score(seen, chunks))


@pytest.mark.slow
def test_a_published_checkpoint_runs_through_the_whole_method(checkpoint, tmp_path):
    def change(tensors, config):
        low, high = [-1.0] * 4, [1.0] * 4
        config["norm_stats"] = {"toy": {"action": {"q01": low, "q99": high, "mask": [True] * 4}}}

    changed(checkpoint, change)
    words = [word for word in SMALL if not word.startswith("policy.")]
    more = ["policy=openvla", f"policy.path={checkpoint}", "policy.adapter={rank: 2}", "policy.dtype=float32"]
    where = [f"out={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}", "env.options.horizon=4"]
    assert main(["run", *words, *SHORT, *more, *where]) == 0
    assert "grape-round1" in json.loads((tmp_path / "run" / "grape.json").read_text())


def test_what_a_policy_was_needs_no_second_copy_of_what_did_not_move(checkpoint, tmp_path):
    policy = OpenVLAPolicy(checkpoint, dtype="float32", adapter={"rank": 2})
    save_vla(tmp_path / "start", policy)
    now = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in now.values():
            p.add_(0.1)
    moved = {name: p.clone() for name, p in now.items()}
    saved = dict(load_vla(tmp_path / "start").named_parameters())
    with load_beside(policy, tmp_path / "start")() as before:
        assert before is policy
        assert all(torch.equal(p, saved[name]) for name, p in now.items())
    assert all(torch.equal(p, moved[name]) for name, p in now.items())


def test_instructions_are_lower_cased_and_neither_empty_nor_endless(checkpoint):
    tokenizer = OpenVLAPolicy(checkpoint, dtype="float32").tokenizer
    assert np.array_equal(tokenizer.encode("Pick up the CUP"), tokenizer.encode("pick up the cup"))
    with pytest.raises(DataError, match="at least one word"):
        tokenizer.encode("  ")
    with pytest.raises(DataError, match="at most 64 tokens"):
        tokenizer.encode("pick up " * 40)


def test_recomputing_activations_changes_no_gradient(checkpoint):
    gradients = []
    for checkpointed in (False, True):
        policy = OpenVLAPolicy(checkpoint, dtype="float32", checkpointed=checkpointed)
        frames = torch.zeros(1, 14, 14, 3, dtype=torch.uint8)
        words = torch.from_numpy(policy.tokenizer.encode("pick up the cup"))[None]
        policy.token_log_probs(frames, words, torch.tensor([[3, 200]])).sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


ACTION = {"q01": [0.0, -1.0], "q99": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_stats": [1]}, "dictionary update sequence|cannot convert"),
        ({"norm_stats": {"x": {}}}, "in the actions of x: KeyError\\('action'\\)"),
        ({"norm_stats": {"x": {"action": {"q99": [1.0]}}}}, "in the actions of x: KeyError\\('q01'\\)"),
        ({"norm_stats": {"x": {"action": {**ACTION, "q01": "ab"}}}}, "in the actions of x: "),
        ({"norm_stats": {"x": {"action": {**ACTION, "q01": 3}}}}, "in the actions of x: "),
        (
            {"norm_stats": {"x": {"action": {**ACTION, "q01": [0.0]}}}},
            "q01, q99 and mask hold one number for each",
        ),
        ({"norm_stats": {"x": {"action": {**ACTION, "mask": "ab"}}}}, "in the actions of x: "),
        ({"norm_stats": {"x": {"action": {"q01": [], "q99": []}}}}, "q01, q99 and mask hold one number"),
        ({"norm_stats": {"x": {"action": {"q01": [0.5], "q99": [0.5]}}}}, "in the actions of x: Each lower"),
        ({"image_sizes": ["abc"]}, "invalid literal for int"),
        ({"image_sizes": [0]}, "frames have a pixel or more"),
        ({"pad_token_id": -1}, "padding is one of 364 tokens"),
        ({"text_config": {"vocab_size": "many"}}, "does not describe"),
        ({"text_config": [1]}, "does not describe"),
        (
            {"text_config": {"vocab_size": 364, "num_attention_heads": 0}},
            "num_attention_heads must be positive",
        ),
        ({"vision_encoders": [{"heads": 2, "depth": 0}] * 2}, "an encoder has a head and two blocks or more"),
        ({"vision_encoders": [{"heads": 2, "dept": 3}] * 2}, "does not describe"),
        ({"vision_encoders": [{"heads": 3, "depth": 3}] * 2}, "heads the width"),
        ({"timm_model_ids": None}, "does not describe"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_its_file(checkpoint, change, said):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=f"^{path}.*({said})"):
        OpenVLAPolicy(checkpoint, dtype="float32")


def test_a_saved_policy_of_which_an_option_is_unknown_or_missing_is_refused_by_its_file(checkpoint, tmp_path):
    saved = tmp_path / "saved"
    save_vla(saved, OpenVLAPolicy(checkpoint, dtype="float32"))
    written = json.loads((saved / "config.json").read_text())
    without_path = {name: value for name, value in written["config"].items() if name != "path"}
    for config, said in (
        (written["config"] | {"bogus": 1}, "unexpected keyword argument 'bogus'"),
        (without_path, "'path'"),
        (written["config"] | {"statistics": "bogus"}, "No data set of this checkpoint is called 'bogus'"),
    ):
        (saved / "config.json").write_text(json.dumps(written | {"config": config}))
        with pytest.raises(DataError, match=f"^{saved / 'config.json'} does not fit an openvla: .*{said}"):
            load_vla(saved)


def _reversed(tensors, config):
    weight = tensors["language_model.lm_head.weight"]
    weight.copy_(weight.flip(0))


def _renamed(tensors, config):
    config["norm_stats"] = {"fractal": config["norm_stats"]["bridge_orig"]}


@pytest.mark.parametrize("change", [_reversed, _renamed])
def test_a_policy_is_not_loaded_onto_another_checkpoint_in_the_same_directory(checkpoint, tmp_path, change):
    saved = tmp_path / "saved"
    save_vla(saved, OpenVLAPolicy(checkpoint, dtype="float32", adapter={"rank": 2}))
    load_vla(saved)
    changed(checkpoint, change)
    with pytest.raises(DataError, match=f"^{checkpoint} holds another checkpoint"):
        load_vla(saved)


def test_a_run_that_keeps_a_published_policy_does_not_go_on_with_another_in_its_directory(
    checkpoint, tmp_path
):
    record = Run(tmp_path / "run", name="x", method="grape", task="x", seed=0, config="")

    def keep():
        lab, policy = Lab(record, Hardware(device="cpu"), 0), OpenVLAPolicy(checkpoint, dtype="float32")
        return train_supervised(lab, policy, [], Fit(1, 1), learns=False)

    assert keep() == keep()
    changed(checkpoint, _reversed)
    with pytest.raises(ConfigError, match=r"made with other settings \(policy\.content: "):
        keep()


def test_a_policy_that_was_saved_without_the_content_of_its_checkpoint_still_loads(checkpoint, tmp_path):
    saved = tmp_path / "saved"
    policy = OpenVLAPolicy(checkpoint, dtype="float32")
    save_vla(saved, policy)
    written = json.loads((saved / "config.json").read_text())
    del written["config"]["content"]
    (saved / "config.json").write_text(json.dumps(written))
    assert load_vla(saved).config == policy.config


def test_a_relative_path_is_found_from_another_directory_too(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    policy = OpenVLAPolicy(checkpoint.name, dtype="float32")
    save_vla(tmp_path / "saved", policy)
    monkeypatch.chdir("/")
    frames = np.zeros((1, 14, 14, 3), np.uint8)
    seen = policy.see(frames, ["pick up the cup"])
    assert torch.equal(load_vla(tmp_path / "saved").act(seen), policy.act(seen))


def rewritten(checkpoint, change):
    """The checkpoint with its tensors, a dictionary, changed."""
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    return checkpoint


def without(*parts):
    def change(tensors):
        for name in [name for name in tensors if any(part in name for part in parts)]:
            del tensors[name]

    return change


@pytest.mark.parametrize(
    "part", ["fused_featurizer.blocks.2.", "featurizer.blocks.1.ls1", "cls_token", "featurizer.pos_embed"]
)
def test_whatever_is_missing_of_a_published_checkpoint_is_named(checkpoint, part):
    with pytest.raises(DataError, match="missing "):
        OpenVLAPolicy(rewritten(checkpoint, without(part)), dtype="float32")


def test_a_vision_encoder_without_its_tokens_is_no_other_encoder(checkpoint):
    with pytest.raises(DataError, match=r"missing .*cls_token.*reg_token.* \(2 in all\)"):
        OpenVLAPolicy(rewritten(checkpoint, without("cls_token", "reg_token")), dtype="float32")


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.9.norm.weight",
        "vision_backbone.featurizer.blocks.2.bogus",
        "vision_backbone.featurizer.attn_pool.latent",  # which DINOv2 has not
        "vision_backbone.fused_featurizer.attn_pool.bogus",
        "language_model.model.layers.2.self_attn.rotary_emb.inv_freq",
    ],
)
def test_a_tensor_that_only_resembles_a_published_one_is_not_expected(checkpoint, name):
    def change(tensors):
        tensors[name] = torch.zeros(3)

    with pytest.raises(DataError, match=rf"not expected \['{name}'\]"):
        OpenVLAPolicy(rewritten(checkpoint, change), dtype="float32")


def test_actions_beyond_what_can_be_sent_are_refused_and_not_cut_off(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["norm_stats"]["bridge_orig"]["action"] |= {"q01": [-2.0, -1.0], "q99": [2.0, 1.0]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="entry 0 of the actions of bridge_orig goes from -2 to 2"):
        OpenVLAPolicy(checkpoint, dtype="float32")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": -1.0}, {"learning_rate": 0.0}])
def test_a_temperature_or_a_step_that_is_not_positive_is_refused(checkpoint, options):
    with pytest.raises(ConfigError, match="temperature and learning_rate must be positive"):
        OpenVLAPolicy(checkpoint, dtype="float32", **options)
