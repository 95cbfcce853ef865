import keras
import numpy as np
import pytest

from boceto.errors import SettingsError
from trainer import layers, nets
from trainer.layers import parameters
from trainer.nets import Spec

SKNET = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1", "conv4_2"]
SKRESNET = [
    "conv1_1",
    "conv1_2",
    "conv2_1",
    "conv2_2",
    "conv3_1",
    "conv3_2",
    "conv4_1",
    "conv5_1",
    "conv5_2",
    "conv6_1",
]
SKRESNET += ["conv6_2", "conv7_1", "conv8_1", "conv8_2", "conv9_1", "conv9_2", "conv10_1"]
POOLS = [f"pool_{number}" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("name", "count", "giga", "convolutions"),
    [("sknet", 18_321_316, 2.0647, SKNET), ("skresnet", 20_978_340, 3.1972, SKRESNET)],
)
def test_the_nets_of_the_design(name, count, giga, convolutions):
    net = nets.build(name, Spec(classes=100))
    assert parameters(net) == count
    assert layers.multiply_accumulates(net) / 1e9 == pytest.approx(giga, abs=5e-5)
    assert [layer.name for layer in net.layers if isinstance(layer, keras.layers.Conv2D)] == convolutions
    assert [net.get_layer(pool).output.shape[1:3] for pool in POOLS] == [(64, 64), (32, 32), (16, 16), (8, 8)]
    assert net.get_layer("pool_4").output.shape == (None, 8, 8, 256)
    assert net.get_layer("fc_1").output.shape == (None, 1024)
    assert net.get_layer("fc_2").output.shape == (None, 100)
    for convolution in convolutions:
        layer = net.get_layer(convolution)
        assert (layer.kernel_size, layer.strides, layer.padding, layer.use_bias) == ((3, 3), (1, 1), "same", False)
        assert isinstance(net.get_layer(f"{convolution}_bn"), keras.layers.BatchNormalization)
    for pool in POOLS:
        layer = net.get_layer(pool)
        assert (layer.pool_size, layer.strides, layer.padding) == ((3, 3), (2, 2), "same")
    # The embedding is what fc_1's ReLU gives.
    assert (net.get_layer("fc_1").activation.__name__, net.get_layer("fc_2").activation.__name__) == ("relu", "linear")


def test_the_residual_sums_of_skresnet():
    net = nets.build("skresnet", Spec(classes=2, height=16, width=16, width_multiplier=1 / 64, embedding=4))

    def inputs(name):
        return {tensor._keras_history.operation.name for tensor in net.get_layer(name).input}

    sums = {"r1": ("2", "pool_1"), "r2": ("3", "r1"), "r3": ("5", "pool_2"), "r4": ("6", "r3")}
    sums |= {"r5": ("8", "pool_3"), "r6": ("9", "r5")}
    assert {name: inputs(name) for name in sums} == {
        name: {f"conv{group}_2_relu", other} for name, (group, other) in sums.items()
    }


# Counts of torchvision's and timm's own models; simple and cnn4: 9 C D + 2 D a convolution, (N + 1) M a dense layer.
COUNTS = {
    "simple": (Spec(250), 9 * (32 + 32 * 64 + 64 * 128) + 2 * 224 + (16 * 16 * 128 + 1) * 256 + 257 * 250),
    "cnn4": (Spec(100), 9 * (32 + 32 * 64 + 64 * 128 + 128 * 256) + 2 * 480 + (8 * 8 * 256 + 1) * 512 + 513 * 100),
    "resnet18": (Spec(1000, 224, 224, image_channels=3), 11_689_512),
    "resnet50": (Spec(1000, 224, 224, image_channels=3), 25_557_032),
    "alexnet": (Spec(1000, 224, 224, image_channels=3), 61_100_840),
    "rexnet": (Spec(1000, 224, 224, image_channels=3), 4_796_873),
    # timm's has a hidden layer of 768 before the logits, ours has not.
    "coatnet0": (Spec(1000, 224, 224, image_channels=3), 25_036_820 - 769 * 768),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_references(name):
    spec, count = COUNTS[name]
    net = nets.build(name, spec)
    assert parameters(net) == count
    assert layers.multiply_accumulates(net) > 0


def test_images_that_are_too_small_are_refused_with_the_smallest():
    with pytest.raises(SettingsError, match="'alexnet' needs images of 63 pixels or more a side, these have 64x62"):
        nets.build("alexnet", Spec(2, 64, 62))


@pytest.mark.parametrize(("height", "width"), [(8, 128), (128, 8)])
@pytest.mark.parametrize("name", [name for name in nets.names() if nets.smallest(name) == 1])
def test_flat_images(name, height, width):
    net = nets.build(name, Spec(2, height, width, 1 / 32))
    assert net.output["logits"].shape == (None, 2)


@pytest.mark.parametrize(
    ("number", "outputs", "message"),
    [
        (1, "{'logits': y, 'embedding': x}", r"gives float\[B, 7\] as 'embedding', and must give float\[B, 9\]"),
        (2, "{'logits': x, 'embedding': y}", r"gives float\[B, 7\] as 'logits', and must give float\[B, 2\]"),
        (3, "y", "gives nothing as 'logits'"),
    ],
)
def test_a_net_whose_outputs_are_others_is_refused(tmp_path, monkeypatch, number, outputs, message):
    (tmp_path / f"odd{number}.py").write_text(
        "import keras\n"
        "def build(spec):\n"
        "    images = keras.Input((spec.height, spec.width, 1), dtype='uint8')\n"
        "    x = keras.layers.Dense(7)(keras.layers.Flatten()(keras.layers.Rescaling(1.0)(images)))\n"
        "    y = keras.layers.Dense(spec.classes)(x)\n"
        f"    return keras.Model(images, {outputs})\n"
    )
    monkeypatch.setattr(nets, "__path__", [*nets.__path__, str(tmp_path)])
    with pytest.raises(SettingsError, match=message):
        nets.build(f"odd{number}", Spec(2, 8, 8, embedding=9))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", nets.names())
def test_every_net_of_the_folder(name, precision):
    size = max(16, nets.smallest(name))
    spec = Spec(
        classes=5,
        height=size,
        width=size + 8,
        width_multiplier=1 / 16,
        embedding=6,
        dropout=0.5,
        precision=precision,
        seed=3,
        image_channels=3,
    )
    net = nets.build(name, spec)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size + 8, 3), np.uint8)
    outputs = net(images, training=False)
    assert {key: (value.shape, value.dtype.name) for key, value in outputs.items()} == {
        "logits": ((2, 5), "float32"),
        "embedding": ((2, 6), "float32"),
    }
    assert all(variable.dtype == "float32" for variable in net.trainable_variables)
    again, other = nets.build(name, spec), nets.build(name, Spec(**(vars(spec) | {"seed": 4})))
    last = [variable.path for variable in net.trainable_variables if len(variable.shape) > 1][-1]
    kernels = [
        next(variable.numpy() for variable in one.variables if variable.path == last) for one in (net, again, other)
    ]
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != kernels[2]).any()


def test_an_unknown_net_says_which_there_are():
    with pytest.raises(SettingsError, match=r"train.net = 'vgg' is unknown; choose one of .*sknet, skresnet"):
        nets.build("vgg", Spec(classes=2))
