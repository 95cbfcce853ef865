import json

from trainer import nets
from trainer.show_nets import main


def test_all_nets_are_listed_with_their_sizes(capsys):
    assert main(["--json", "--height", "62", "--width", "70", "--width-multiplier", "0.1"]) == 0
    said = capsys.readouterr()
    rows = {row["net"]: row for row in json.loads(said.out)["nets"]}
    assert set(rows) == set(nets.names()) - {"alexnet"}
    assert "alexnet is left out: it needs images of 63 pixels or more a side" in said.err
    assert all(row["multiply-accumulates"] > 0 for row in rows.values())
    assert rows["resnet18"]["embedding"] == 51


def test_the_layers_of_a_net_add_up(capsys):
    assert main(["simple", "--json", "--classes", "250"]) == 0
    said = capsys.readouterr()
    *layers, total = json.loads(said.out)["layers"]
    first = next(layer for layer in layers if layer["layer"] == "conv1")
    assert first == {
        "layer": "conv1", "kind": "Conv2D", "output": "128x128x32", "parameters": 288,
        "multiply-accumulates": 128 * 128 * 288,
    }  # fmt: skip
    assert total["parameters"] == sum(layer["parameters"] for layer in layers) == 8_546_010
    assert total["multiply-accumulates"] == sum(layer["multiply-accumulates"] for layer in layers)
    assert "8,546,010" in said.err


def test_an_unknown_net_is_refused(capsys):
    assert main(["vgg"]) == 2
    assert "train.net = 'vgg' is unknown; choose one of alexnet" in capsys.readouterr().err
