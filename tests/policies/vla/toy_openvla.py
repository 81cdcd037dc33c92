"""A directory with OpenVLA's names and configuration, a few thousand numbers instead of seven billion."""

import json

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("tokenizers")

WIDTH, VOCABULARY = 16, 300


def encoder_tensors(prefix, width, hidden, *, blocks=3, dino=False):
    shapes = {
        "patch_embed.proj.weight": (width, 3, 7, 7),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, 4, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if dino:
        shapes |= {"cls_token": (1, 1, width), "reg_token": (1, 4, width)}
    else:
        shapes |= {"attn_pool.latent": (1, 1, width), "attn_pool.kv.weight": (2 * width, width)}
    for i in range(blocks):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden),
            "mlp.fc2.bias": (width,),
            **({"ls1.scale_factor": (width,), "ls2.scale_factor": (width,)} if dino else {}),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    return {f"vision_backbone.{prefix}.{name}": shape for name, shape in shapes.items()}


def language_tensors():
    hidden = 24
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY + 64, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY + 64, WIDTH),
    }
    for i in range(2):
        for name in "qkvo":
            shapes[f"model.layers.{i}.self_attn.{name}_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"model.layers.{i}.mlp.gate_proj.weight"] = (hidden, WIDTH)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (hidden, WIDTH)
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (WIDTH, hidden)
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (WIDTH,)
    return {f"language_model.{name}": shape for name, shape in shapes.items()}


def projector_tensors(features):
    sizes = {"fc1": (4 * features, features), "fc2": (WIDTH, 4 * features), "fc3": (WIDTH, WIDTH)}
    shapes = {f"projector.{name}.weight": size for name, size in sizes.items()}
    return shapes | {f"projector.{name}.bias": size[:1] for name, size in sizes.items()}


def write_checkpoint(folder):
    """Write the checkpoint into this folder, with a tokenizer of a few words; return the folder."""
    shapes = (
        encoder_tensors("featurizer", 8, 16, dino=True)
        | encoder_tensors("fused_featurizer", 12, 20)
        | projector_tensors(20)
        | language_tensors()
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "image_sizes": [14, 14],
        "timm_model_ids": ["tiny", "tiny"],
        "vision_encoders": [
            {"heads": 2, "depth": 3, "registers": 4, "scaled": True},
            {"heads": 3, "depth": 3},
        ],
        "pad_token_id": VOCABULARY,
        "pad_to_multiple_of": 64,
        "text_config": {
            "model_type": "llama",
            "vocab_size": VOCABULARY + 64,
            "hidden_size": WIDTH,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "norm_stats": {
            "bridge_orig": {"action": {"q01": [0.0, -1.0], "q99": [0.5, 1.0], "mask": [True, False]}}
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [
        "<unk>",
        "<s>",
        *("in", ":", "what", "action", "should", "the", "robot", "take", "to", "?", "out"),
    ]
    words += ["pick", "up", "cup"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
