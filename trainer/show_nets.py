"""`boceto nets [NAME]`: the nets with their sizes, or the layers of one net."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto.console import Console, quiet, run_program
from boceto.errors import BocetoError
from boceto.settings import option, parse
from trainer import environment, nets

DESCRIPTION = (
    "Lists the nets: trainable parameters, multiply-accumulate operations of one image, size of the embedding, MiB of "
    "the weights, and MiB that the outputs of all layers of one image take in float32. With NAME, lists the layers of "
    "that net. Where the operations of a layer are not known, `?` stands."
)
_MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """The words of `boceto nets`."""

    name: str = option("", help="the net whose layers are listed; all nets where none is given", positional=True)
    classes: int = option(100, help="classes", at_least=2)
    height: int = option(128, help="pixels of an image", at_least=1)
    width: int = option(128, help="pixels of an image", at_least=1)
    channels: int = option(1, help="channels of an image", choices=(1, 3))
    width_multiplier: float = option(1.0, help="multiplies the channels of convolutions", at_least=0.01, at_most=16)
    embedding: int = option(0, help="size of the embedding; 0: the net's own", at_least=0)

    @property
    def spec(self) -> nets.Spec:
        """What the nets are built for."""
        return nets.Spec(
            classes=self.classes,
            height=self.height,
            width=self.width,
            image_channels=self.channels,
            width_multiplier=self.width_multiplier,
            embedding=self.embedding,
        )


def main(argv: Sequence[str]) -> int:
    """Runs `boceto nets` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "nets", argv, DESCRIPTION)
        environment.prepare()
        with quiet():
            found = _layers(invocation.settings) if invocation.settings.name else _nets(invocation.settings, console)
        rows = found["layers"] if "layers" in found else found["nets"]
        console.table(list(rows[0]), [list(map(_text, row.values())) for row in rows], 2 if "layers" in found else 1)
        return found, invocation.json, None

    return run_program("nets", work)


def _text(value: Any) -> str:
    return "?" if value is None else value if isinstance(value, str) else f"{value:,}"


def _nets(settings: Settings, console: Console) -> dict[str, Any]:
    from trainer import layers

    rows = []
    names = nets.names()
    for number, name in enumerate(names):
        console.progress("building", number, len(names), "nets")
        smallest = nets.smallest(name)
        if min(settings.height, settings.width) < smallest:
            console.warning(f"{name} is left out: it needs images of {smallest} pixels or more a side")
            continue
        net = nets.build(name, settings.spec)
        weights = sum(int(variable.shape.num_elements()) for variable in net.variables)
        outputs = sum(math.prod(layer.output.shape[1:]) for layer in net.layers)
        rows.append(
            {
                "net": name,
                "parameters": layers.parameters(net),
                "multiply-accumulates": layers.multiply_accumulates(net),
                "embedding": int(net.output["embedding"].shape[-1]),
                "weights MiB": round(4 * weights / _MIB, 1),
                "outputs MiB": round(4 * outputs / _MIB, 1),
            }
        )
    return {"nets": rows}


def _layers(settings: Settings) -> dict[str, Any]:
    from trainer import layers

    net = nets.build(settings.name, settings.spec)
    rows = [
        {
            "layer": layer.name,
            "kind": type(layer).__name__,
            "output": "x".join(map(str, layer.output.shape[1:])),
            "parameters": sum(int(weight.shape.num_elements()) for weight in getattr(layer, "trainable_weights", ())),
            "multiply-accumulates": layers.count_of(layer),
        }
        for layer in net.operations
    ]
    total = {"parameters": layers.parameters(net), "multiply-accumulates": layers.multiply_accumulates(net)}
    rows.append({"layer": "all", "kind": "", "output": ""} | total)
    return {"net": settings.name, "layers": rows}
