"""A bundle made by hand, without torch, whose numbers can be checked in one's head.

Three observation entries x, two action entries a. The policy's mean is (x0, x1) at every step of the chunk;
the reward's members say a0 and a0 + gap * a1, with deviations of 0.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(path, inputs, weights, outputs, reshape=None):
    """An ONNX file: each output is one input times a matrix, reshaped if asked."""
    nodes, constants = [], []
    for (output, _), (source, weight) in zip(outputs.items(), weights, strict=True):
        constants.append(numpy_helper.from_array(np.asarray(weight, np.float32), f"{output}_w"))
        flat = output if reshape is None else f"{output}_flat"
        nodes.append(helper.make_node("MatMul", [source, f"{output}_w"], [flat]))
        if reshape is not None:
            constants.append(numpy_helper.from_array(np.array([-1, *reshape]), f"{output}_s"))
            nodes.append(helper.make_node("Reshape", [flat, f"{output}_s"], [output]))
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *shape]) for n, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "made", ports[0], ports[1], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def make_bundle(
    folder, *, horizon=1, deviation=(0.5, 0.5), gap=0.0, rate=None, boxes=(), hold=(0.0, 0.0), **changes
):
    """Write the bundle; ``changes`` go to the top of the manifest."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    mean = np.tile(np.eye(3, 2), (1, horizon))
    linear(
        folder / "policy.onnx",
        {"observations": (3,)},
        [("observations", mean)],
        {"mean": (horizon, 2)},
        reshape=(horizon, 2),
    )
    linear(
        folder / "reward.onnx",
        {"observations": (3,), "actions": (2,)},
        [("actions", [[1, 1], [0, gap]]), ("actions", np.zeros((2, 2)))],
        {"mean": (2,), "deviation": (2,)},
    )
    networks = {
        "policy": network(folder, "policy", {"observations": [3]}, {"mean": [horizon, 2]}),
        "reward": network(
            folder, "reward", {"observations": [3], "actions": [2]}, {"mean": [2], "deviation": [2]}
        ),
    }
    parts = [
        {
            "name": "observation/arm",
            "size": 2,
            "units": "rad",
            "frame": "joints",
            "low": [-9, -9],
            "high": [9, 9],
        },
        {"name": "observation/goal", "size": 1, "units": "m", "frame": "base", "low": None, "high": None},
    ]
    (folder / "parity.json").write_text('{"tolerance": 1e-5, "networks": {}}')
    manifest = {
        "format": "robopref-bundle",
        "schema": 1,
        "task": "toy",
        "control_hz": 10.0,
        "observation": [{**part, "dtype": "float32"} for part in parts],
        "action": {
            "names": ["shoulder", "elbow"],
            "horizon": horizon,
            "execute": horizon,
            "dtype": "float32",
            "units": ["rad/s", "rad/s"],
            "frame": "joints",
            "low": [-1.0, -1.0],
            "high": [1.0, 1.0],
            "hold": hold if hold == "last" else list(hold),
            "home": None,
        },
        "limits": {"low": [-1.0, -1.0], "high": [1.0, 1.0], "rate_per_s": rate, "boxes": list(boxes)},
        "policy": {"kind": "gaussian", "network": "policy", "deviation": list(deviation)},
        "scorer": {"kind": "ensemble", "network": "reward", "whole": False},
        "networks": networks,
        "versions": {},
        "source": {},
        "parity": hashlib.sha256((folder / "parity.json").read_bytes()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def network(folder, name, inputs, outputs):
    """The manifest's record of an ONNX file."""
    digest = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
    return {
        "file": f"{name}.onnx",
        "sha256": digest,
        "dtype": "float32",
        "inputs": inputs,
        "outputs": outputs,
    }


def edited(folder, edit):
    """Change the manifest of a bundle by a function of its record."""
    path = Path(folder) / "manifest.json"
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    return folder


def seen(x0=0.0, x1=0.0, x2=0.0):
    """An observation as a robot sends it."""
    return {
        "observation/arm": np.array([x0, x1], np.float32),
        "observation/goal": np.array([x2], np.float32),
    }
