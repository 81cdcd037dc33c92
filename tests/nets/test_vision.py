"""Frame encoders: what they give by construction, and which checkpoints they refuse."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError, DataError
from robopref.nets.features import cached_features, encode
from robopref.nets.vision import PcaEncoder, PretrainedEncoder, make_encoder


def frames(count, size=24, seed=0):
    return torch.randint(
        0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def as_cached(pictures):
    return pictures.permute(0, 2, 3, 1).numpy()


# --- PCA ---------------------------------------------------------------------------------------------------


def test_components_are_those_of_a_singular_value_decomposition():
    pictures = frames(20, size=12)
    encoder = PcaEncoder(width=4, size=12)
    encoder.fit(pictures)
    rows = pictures.flatten(1).double() / 255
    _, _, vectors = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    overlap = (encoder.components.double() @ vectors[:4].T).abs()
    assert torch.allclose(overlap, torch.eye(4, dtype=torch.float64), atol=1e-4)
    features = encoder(pictures)
    assert features.mean(0).abs().max() < 1e-4
    assert (features.var(0).diff() < 0).all()  # the largest first


def test_a_frame_twice_as_large_with_doubled_pixels_has_the_same_features():
    encoder = PcaEncoder(width=4, size=12)
    encoder.fit(frames(20, size=12))
    small = frames(3, size=12, seed=1)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(encoder(small), encoder(large), atol=1e-4)


@pytest.mark.parametrize("filters", [0, 8])
def test_the_same_seed_and_frames_give_the_same_encoder(filters):
    first, second, other = (PcaEncoder(width=4, size=16, filters=filters, seed=seed) for seed in (0, 0, 1))
    for encoder in (first, second, other):
        encoder.fit(frames(20))
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()
    copy = make_encoder({"kind": "pca", **first.config})
    copy.load_state_dict(first.state_dict())
    assert torch.equal(copy(frames(2)), first(frames(2)))


def test_what_a_pca_cannot_do_is_a_sentence():
    with pytest.raises(ConfigError, match=r"call fit\(frames\) first"):
        PcaEncoder()(frames(2))
    with pytest.raises(DataError, match="3 frames do not span 4 components"):
        PcaEncoder(width=4).fit(frames(3))
    with pytest.raises(DataError, match="do not span"):
        PcaEncoder(width=4).fit(torch.zeros(30, 3, 24, 24, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="No encoder is called 'pac'"):
        make_encoder({"kind": "pac"})
    with pytest.raises(ConfigError, match="does not take these options"):
        make_encoder({"kind": "pca", "widht": 3})


# --- features on disk --------------------------------------------------------------------------------------


class Counting(PcaEncoder):
    """Counts the frames that it has seen."""

    seen = largest = 0

    def forward(self, frames):
        type(self).seen += len(frames)
        type(self).largest = max(self.largest, len(frames))
        return super().forward(frames)


@pytest.fixture
def fitted():
    encoder = Counting(width=4, size=12)
    encoder.fit(frames(20))
    Counting.seen = Counting.largest = 0
    return encoder


def test_each_frame_is_encoded_once_and_read_from_a_memory_map(fitted, tmp_path):
    pictures = as_cached(frames(50))
    first = cached_features(fitted, pictures, content="c", folder=tmp_path, batch_size=8)
    assert Counting.seen == 50
    again = cached_features(fitted, pictures, content="c", folder=tmp_path)
    assert Counting.seen == 50
    assert isinstance(again.base, np.memmap)
    assert np.array_equal(first, again)
    assert np.allclose(first, encode(fitted, pictures), atol=1e-5)


def test_a_killed_run_goes_on_with_the_frame_it_had_reached(fitted, tmp_path):
    pictures = as_cached(frames(50))
    whole = np.array(cached_features(fitted, pictures, content="c", folder=tmp_path))
    path = next(tmp_path.glob("*.f32"))
    path.with_suffix(".part").write_bytes(whole[:30].tobytes() + b"half")
    path.unlink()
    Counting.seen = 0
    assert np.array_equal(cached_features(fitted, pictures, content="c", folder=tmp_path), whole)
    assert Counting.seen == 20


def test_other_frames_or_another_encoder_are_encoded_anew(fitted, tmp_path):
    pictures = as_cached(frames(20))
    cached_features(fitted, pictures, content="c", folder=tmp_path)
    cached_features(fitted, pictures, content="d", folder=tmp_path)
    wider = PcaEncoder(width=5, size=12)
    wider.fit(frames(20))
    assert cached_features(wider, pictures, content="c", folder=tmp_path).shape == (20, 5)
    assert len(list(tmp_path.glob("*.f32"))) == 3


def test_a_truncated_cache_and_features_that_are_nan_are_refused(fitted, tmp_path):
    pictures = as_cached(frames(20))
    cached_features(fitted, pictures, content="c", folder=tmp_path)
    path = next(tmp_path.glob("*.f32"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated, or the encoder's width changed"):
        cached_features(fitted, pictures, content="c", folder=tmp_path)
    fitted.mean.fill_(torch.nan)
    with pytest.raises(DataError, match="NaN or infinity for frame 0"):
        cached_features(fitted, pictures, content="c", folder=tmp_path)


def test_the_encoder_sees_one_batch_at_a_time_however_many_frames_there_are(fitted, tmp_path):
    many = np.broadcast_to(np.zeros((1, 12, 12, 3), np.uint8), (20_000, 12, 12, 3))  # takes no memory
    found = cached_features(fitted, many, content="e", folder=tmp_path, batch_size=1000)
    assert found.shape == (20_000, 4)
    assert Counting.largest == 1000


# --- pretrained backbones ----------------------------------------------------------------------------------


def tiny(family, folder):
    """Save a tiny model with random weights as safetensors."""
    import transformers as t

    small: Any = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    model = {
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**small, image_size=28, patch_size=14)),
        "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**small, image_size=32, patch_size=16)),
        "siglip2": lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**small, num_patches=16, patch_size=8)),
        "resnet": lambda: t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
        "vit_mae": lambda: t.ViTMAEModel(t.ViTMAEConfig(**small, image_size=32, patch_size=16)),
    }[family]().eval()
    model.save_pretrained(folder)
    return model


SIZES = {"dinov2": 28, "siglip": 32, "siglip2": 32, "resnet": 32, "vit_mae": 32}


@pytest.mark.parametrize("family", SIZES)
def test_a_backbone_is_read_from_a_folder_and_gives_its_pooled_output(family, tmp_path):
    tiny(family, tmp_path)
    encoder = PretrainedEncoder(str(tmp_path), size=SIZES[family])
    features = encoder(frames(3, size=40))
    assert features.shape == (3, encoder.width) == (3, 16)
    assert torch.isfinite(features).all()
    assert not features.requires_grad
    assert (features[0] - features[1]).abs().max() > 1e-6
    assert torch.allclose(encoder(frames(3, size=40)[[2, 0]]), features[[2, 0]], atol=1e-5)
    again = make_encoder({"kind": "pretrained", **encoder.config})
    assert again.fingerprint() == encoder.fingerprint()


def test_colours_are_normalised_and_frames_scaled_as_the_model_expects(tmp_path):
    model = tiny("dinov2", tmp_path)
    grey = torch.full((1, 3, 28, 28), 128, dtype=torch.uint8)
    mean, deviation = (
        torch.tensor(c).reshape(1, 3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        wanted = model(pixel_values=(grey / 255 - mean) / deviation).pooler_output
    assert torch.allclose(PretrainedEncoder(str(tmp_path))(grey), wanted, atol=1e-5)
    assert torch.allclose(
        PretrainedEncoder(str(tmp_path))(torch.full((1, 3, 84, 56), 128, dtype=torch.uint8)),
        wanted,
        atol=1e-4,
    )


def test_broken_checkpoints_are_refused_with_their_name(tmp_path):
    import transformers as t
    from safetensors.torch import load, save

    tiny("dinov2", tmp_path / "whole")
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    tensors = load(whole)
    right = PretrainedEncoder(str(tmp_path / "whole")).fingerprint()

    def folder(name, weights):  # a new one each time: what was loaded is still mapped to its file
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        return str(tmp_path / name)

    with pytest.raises(DataError, match="cannot be read"):
        PretrainedEncoder(folder("truncated", whole[: len(whole) // 2]))
    lacking = {name: value for name, value in tensors.items() if name != "layernorm.weight"}
    with pytest.raises(DataError, match="not a whole Dinov2Model: 1 weights are missing"):
        PretrainedEncoder(folder("lacking", save(lacking, {"format": "pt"})))
    other = {name: value + 1 for name, value in tensors.items()}
    with pytest.raises(DataError, match="holds other weights than this was made with"):
        PretrainedEncoder(folder("other", save(other, {"format": "pt"})), weights=right)

    pickled = Path(folder("pickled", b""))
    (pickled / "model.safetensors").unlink()
    torch.save(tensors, pickled / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be read"):
        PretrainedEncoder(str(pickled))

    small: Any = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    t.BertModel(t.BertConfig(**small, vocab_size=20)).save_pretrained(tmp_path / "text")
    with pytest.raises(DataError, match="No vision backbone is called 'bert'"):
        PretrainedEncoder(str(tmp_path / "text"))


@pytest.mark.parametrize("family", SIZES)
def test_a_truncated_checkpoint_of_any_family_is_refused(family, tmp_path):
    tiny(family, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match="cannot be read"):
        PretrainedEncoder(str(tmp_path))


def test_a_model_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="nothing"):
        PretrainedEncoder(str(tmp_path / "nothing"))
