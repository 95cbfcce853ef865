"""The settings of `boceto eval` and `boceto predict`."""

from dataclasses import dataclass

from boceto import staging, telemetry, waiting
from boceto.errors import SettingsError
from boceto.settings import option

SPLITS = ("test", "train", "validation")


@dataclass(frozen=True)
class Settings:
    """The inputs of an evaluation, and how it is done."""

    data: str = option(help="folder of the data set")
    run: str = option(help="folder of the run, whose export is evaluated; the scores go to its eval/")
    splits: str = option(
        "test,train",
        help="splits to score: test, train (records trained on), validation (held out of training)",
        listed=True,
    )
    cache_dir: str = option(staging.DEFAULT, help="folder for copies of data in object storage")
    verify: bool = option(False, help="check every byte of the data set first, and replace damaged copies")
    batch_size: int = option(256, help="drawings a batch", at_least=1)
    flip: bool = option(False, help="score the mean of logits and embedding over each drawing and its mirror image")
    bootstrap: int = option(1000, help="resamples for the 95 % intervals", at_least=1, at_most=1_000_000)
    seed: int = option(0, help="seed of the resamples, of the chosen train drawings and of the picture", at_least=0)
    train_records: int = option(0, help="train drawings to evaluate, chosen at random; 0 is all", at_least=0)
    picture_queries: int = option(12, help="drawings in the picture of neighbours", at_least=1, at_most=100)
    wait: float = option(0.0, help=waiting.option_help("a data set or an export"), at_least=0)
    metrics_port: int = telemetry.port_option()
    metrics_linger: float | None = telemetry.linger_option()
    allow_other_data: bool = option(False, help="evaluate on a data set that the net was not trained with")

    @property
    def each_split(self) -> list[str]:
        """The splits, test first.

        Raises:
            SettingsError: a name is unknown or empty, or there is none.
        """
        given = [name.strip() for name in self.splits.split(",")]
        if "" in given:
            said = "has an empty name" if any(given) else "names no split"
            raise SettingsError(f"eval.splits = {self.splits!r} {said}; choose among {', '.join(SPLITS)}")
        if unknown := [name for name in given if name not in SPLITS]:
            raise SettingsError(f"eval.splits: {unknown[0]!r} is unknown; choose among {', '.join(SPLITS)}")
        return [name for name in SPLITS if name in given]


@dataclass(frozen=True)
class PredictSettings:
    """The inputs of `boceto predict`, and what it writes."""

    run: str = option(help="folder of the run, whose export predicts")
    input: str = option(help="picture, folder or glob of pictures, or QuickDraw's drawings (.ndjson, .ndjson.gz)")
    output: str = option("", help="file to write, .csv or .jsonl; empty: a table on standard output")
    top: int = option(5, help="classes an input, the most probable first", at_least=1)
    columns: str = option("", help="columns of the CSV file, as input,label1; empty: all", listed=True)
    neighbours: int = option(
        0, help="nearest drawings of the data set an input, by L2 of the embedding", at_least=0, at_most=1000
    )
    data: str = option("", help="folder of the data set whose drawings --neighbours finds")
    cache_dir: str = option(staging.DEFAULT, help="folder for copies of data in object storage")
    flip: bool = option(False, help="mean of logits and embedding over an input and its mirror image")
    batch_size: int = option(256, help="inputs a batch", at_least=1)
    max_refused: float = option(
        0.01,
        help="share of bad inputs above which the exit code is 65; the others are predicted",
        at_least=0,
        at_most=1,
    )
