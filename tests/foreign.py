"""Loads the exports of both nets where nothing of Boceto is: `make foreign`.

Each TensorFlow and ONNX Runtime gets a virtual environment of its own, in a temporary folder. Each TensorFlow must give
the bits that the trainer's gives, ONNX Runtime the same values within 1e-5.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
UV = ROOT / ".venv" / "bin" / "uv"
# The newest minor version of Python 3 that each one is built for.
TENSORFLOWS = {"2.15.1": 11, "2.16.2": 12, "2.17.1": 12, "2.18.1": 12, "2.19.1": 12, "2.20.0": 13, "2.21.0": 13}
ONNX = ("tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "onnx==1.19.1", "onnxruntime==1.23.2")
ONNX_TOLERANCE = 1e-5
NETS = ("sknet", "skresnet")
LOAD = """
import sys
import numpy as np
import tensorflow as tf

folder, images, found = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
np.savez(found, **{name: value.numpy() for name, value in serve(images=tf.constant(np.load(images))).items()})
"""
CONVERT = """
import subprocess
import sys
import numpy as np
import onnxruntime

folder, images, found = sys.argv[1:]
convert = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder, "--output", found + ".onnx"]
subprocess.run(convert, check=True)
session = onnxruntime.InferenceSession(found + ".onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
np.savez(found, **dict(zip(names, session.run(names, {"images": np.load(images)}))))
"""


def environment(folder, packages):
    """Makes a virtual environment with these packages; returns its Python."""
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return python


def outputs(python, program, export, images, found):
    """-> what `program`, run by `python`, makes of the pictures: name -> float32[B, ...]."""
    told = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([python, "-W", "ignore", "-c", program, export, images, found], check=True, env=told)
    with np.load(f"{found}.npz") as arrays:
        return dict(arrays)


def compare(name, expected, found, tolerance):
    """Prints the largest difference. Raises AssertionError where it is above the tolerance."""
    assert found.keys() == expected.keys(), f"{name}: outputs are {sorted(found)}, not {sorted(expected)}"
    most = max(float(np.abs(found[output] - expected[output]).max()) for output in expected)
    same = all(found[output].tobytes() == expected[output].tobytes() for output in expected)
    print(f"{name}: {'equal to the bit' if same else f'differs by up to {most:.2g}'}", flush=True)
    assert same if tolerance == 0 else most <= tolerance, name


def train(folder):
    """Trains the nets for some steps; -> the folder of each one's SavedModel."""
    data, boceto = str(folder / "data"), (sys.executable, "-m", "boceto")
    drawings = ("--classes", "5", "--train-per-class", "40", "--test-per-class", "2", "--size", "32", "--workers", "1")
    subprocess.run([*boceto, "prepare", "--source", "synthetic", "--output", data, *drawings], check=True)
    small = (
        "--width-multiplier",
        "0.25",
        "--embedding",
        "64",
        "--batch-size",
        "16",
        "--epochs",
        "3",
        "--no-tensorboard",
    )
    for net in NETS:
        subprocess.run([*boceto, "train", "--data", data, "--run", folder / net, "--net", net, *small], check=True)
    return {net: folder / net / "export" / "saved_model" for net in NETS}


def main():
    with tempfile.TemporaryDirectory(prefix="boceto-foreign-") as name:
        folder = Path(name)
        exports = train(folder)
        images = folder / "images.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), dtype=np.uint8))
        expected = {net: outputs(sys.executable, LOAD, exports[net], images, folder / f"{net}-here") for net in NETS}
        places = [
            (f"TensorFlow {version}", (f"tensorflow-cpu=={version}",), LOAD, 0.0)
            for version, newest in TENSORFLOWS.items()
            if sys.version_info.minor <= newest
        ]
        for number, (place, packages, program, tolerance) in enumerate(
            [*places, (f"ONNX Runtime ({', '.join(ONNX)})", ONNX, CONVERT, ONNX_TOLERANCE)]
        ):
            python = environment(folder / f"venv-{number}", packages)
            for net in NETS:
                found = outputs(python, program, exports[net], images, folder / f"{net}-{number}")
                compare(f"{place}, {net}", expected[net], found, tolerance)


if __name__ == "__main__":
    main()
