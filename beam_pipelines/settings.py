"""The settings of `boceto prepare`."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from beam_pipelines import sources
from boceto import telemetry
from boceto.dataset import CHANNELS, ENCODINGS
from boceto.settings import option

# What says how the job runs, not what it makes.
_RUNNING = ("output", "overwrite", "runner", "workers", "preview", "metrics_port", "metrics_linger")


@dataclass(frozen=True)
class Settings:
    """The flags of `boceto prepare`, and the table [prepare] of a settings file."""

    output: str = option(help="folder of the data set to make")
    source: str = option(
        "quickdraw", help=f"kind of input: {', '.join(sources.names())}; synthetic is drawn by rule and needs no input"
    )
    input: str = option("", help="folder, file or glob of the input, or gs://quickdraw_dataset/full/simplified")
    classes: str = option(
        "all", help="how many categories, chosen by the seed; or names with commas; or a file of names", listed=True
    )
    train_per_class: int = option(1000, help="training drawings a class; 0: all that are left", at_least=0)
    validation_per_class: int = option(0, help="validation drawings a class", at_least=0)
    validation_share: float = option(
        0.0, help="share of a class's training drawings that becomes validation drawings", at_least=0, at_most=0.9
    )
    test_per_class: int = option(50, help="test drawings a class", at_least=0)
    allow_fewer: bool = option(False, help="take what there is of a category with too few drawings")
    recognized: str = option("any", help="drawings to take by Google's flag", choices=("any", "only"))
    seed: int = option(0, help="decides which categories and drawings are taken", at_least=0, at_most=2**31 - 1)
    size: int = option(128, help="height and width of an image, pixels", at_least=8, at_most=1024)
    height: int = option(0, help="height of an image, pixels; 0: size", at_least=0, at_most=1024)
    width: int = option(0, help="width of an image, pixels; 0: size", at_least=0, at_most=1024)
    channels: int = option(1, help="1: grey; 3: RGB (strokes are grey in it)", choices=CHANNELS)
    line_width: float = option(2.0, help="width of a stroke, pixels", at_least=0.25, at_most=256)
    margin: float = option(1.0, help="border free of ink, pixels", at_least=0, at_most=512)
    ink: str = option("white", help="white ink on black, or black on white", choices=("white", "black"))
    invert: str = option(
        "auto",
        help="turn pictures over, so that their ink is as --ink says; auto: those whose paper is the wrong one",
        choices=("auto", "on", "off"),
    )
    fit: str = option(
        "keep",
        help="keep a picture's proportions, with a border of its paper; or stretch it",
        choices=("keep", "stretch"),
    )
    encoding: str = option("png", help="how pixels are stored", choices=ENCODINGS)
    records_per_shard: int = option(8192, help="drawings a shard file, about", at_least=1)
    max_refused: float = option(0.01, help="share of bad drawings above which the job fails", at_least=0, at_most=1)
    synthetic_drawings: int = option(
        0, help="drawings a class of the synthetic source; 0: a few more than wanted", at_least=0
    )
    overwrite: bool = option(
        False, help="replace a finished data set that is in the folder: the old data set goes first"
    )
    preview: bool = option(True, help="draw preview.png, a row of drawings a class")
    runner: str = option("DirectRunner", help="Beam runner; options of Beam's own go behind `--`")
    workers: int = option(0, help="workers of the DirectRunner; 0: one a core", at_least=0, at_most=256)
    metrics_port: int = telemetry.port_option()
    metrics_linger: float | None = telemetry.linger_option()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.height or self.size, self.width or self.size, self.channels

    @property
    def per_class(self) -> dict[str, int]:
        """Drawings a class by split; of `train`, 0 means all that are left."""
        return {"test": self.test_per_class, "validation": self.validation_per_class, "train": self.train_per_class}

    @property
    def wanted(self) -> int:
        """Drawings that a class needs, all splits together: one to train on, if all that are left are taken."""
        return self.test_per_class + self.validation_per_class + (self.train_per_class or 1)

    def content_options(self) -> dict[str, Any]:
        """The settings that decide what the data set holds."""
        content = dataclasses.asdict(self) | {"height": self.shape[0], "width": self.shape[1]}
        return {name: value for name, value in content.items() if name not in (*_RUNNING, "size")}
