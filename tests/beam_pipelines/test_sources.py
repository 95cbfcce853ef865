"""Each source is tested by being there: all read one folder, or the folder in it that is called as the source is."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from beam_pipelines import sources
from beam_pipelines.select import ORDER
from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, Filtered, InputPart, Refused, synthetic
from boceto import dataset, strokes
from boceto.__main__ import main

CLASSES, EACH = ("circle", "star"), 8
LIMITS = {"size": 16, "train_per_class": 4, "test_per_class": 1}


def _picture(drawing):
    picture = Image.new("L", (256, 256), "white")
    for stroke in strokes.unpack(drawing):
        ImageDraw.Draw(picture).line([tuple(point) for point in stroke.tolist()], "black", 8)
    return picture


def _svg(drawing):
    lines = ["M" + " L".join(f"{x} {y}" for x, y in zip(*stroke, strict=True)) for stroke in drawing]
    paths = "".join(f'<path d="{line}"/>' for line in lines)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 255 255">{paths}</svg>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of eight drawings: as QuickDraw's lines, as pictures in folders and in lists, and as SVG files."""
    found = tmp_path_factory.mktemp("input")
    lists = {"train.txt": "", "test.txt": ""}
    for category in CLASSES:
        (found / category).mkdir()
        (found / "svg" / category).mkdir(parents=True)
        drawings = [synthetic.draw(0, category, number) for number in range(EACH)]
        lines = [[stroke.T.tolist() for stroke in strokes.unpack(drawing)] for drawing in drawings]
        text = "".join(json.dumps({"word": category, "drawing": line}) + "\n" for line in lines)
        (found / f"{category}.ndjson").write_text(text)
        for number, drawing in enumerate(drawings):
            _picture(drawing).save(found / category / f"{number}.png")
            (found / "svg" / category / f"{number}.svg").write_text(_svg(lines[number]))
            lists["train.txt" if number else "test.txt"] += f"{category}/{number}.png\t{category}\n"
    for name, text in lists.items():
        (found / name).write_text(text)
    return lambda name: str(found / name if (found / name).is_dir() else found)


@pytest.mark.parametrize("name", sources.names())
def test_a_source_plans_parts_in_order_and_reads_them_twice_alike(folder, name):
    settings, source = Settings("", source=name, input=folder(name), **LIMITS), sources.load(name)
    parts = source.plan(settings)
    assert parts == sorted(parts) == source.plan(settings)
    assert len({part.name for part in parts}) == len(parts)
    assert set(CLASSES) <= {part.category for part in parts}
    for part in parts:
        assert InputPart(*tuple(part)) == part
        items = list(source.read(part, settings))
        for item, again in zip(items, source.read(part, settings), strict=True):
            assert isinstance(item, Drawing | Refused | Filtered)
            assert [np.asarray(value).tolist() for value in item] == [np.asarray(value).tolist() for value in again]
            if isinstance(item, Drawing):
                assert item.split in ORDER
                assert bool(item.strokes) == (item.image is None)
                assert item.image is None or (item.image.shape, item.image.dtype) == (settings.shape, np.uint8)


@pytest.mark.parametrize("name", sources.names())
def test_a_source_goes_through_prepare_and_gives_bright_drawings_on_black(folder, tmp_path, name):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in LIMITS.items()]
    words += [
        f"--source={name}",
        f"--input={folder(name)}",
        f"--output={tmp_path}",
        "--classes=circle,star",
        "--workers=1",
    ]
    assert main(["prepare", *words]) == 0
    data = dataset.load(str(tmp_path))
    assert min(data.manifest.splits["train"].per_class) >= LIMITS["train_per_class"]
    images = data.split("train").images(np.arange(8))
    assert np.median(images) == 0
    assert images.max() > 100
