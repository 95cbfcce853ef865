"""A source of PNG files: a folder of `settings.input` a category."""

import io

import numpy as np
from PIL import Image

from beam_pipelines.sources import Drawing, InputPart, Refused
from boceto import storage


def plan(settings):
    files = {}
    for entry in storage.list_files(settings.input):
        category, _, _ = storage.relative(entry.url, settings.input).partition("/")
        files.setdefault(category, []).append(entry)
    return [
        InputPart(category, category, size=sum(entry.size for entry in found), urls=tuple(entry.url for entry in found))
        for category, found in sorted(files.items())
    ]


def read(part, settings):
    height, width, channels = settings.shape
    for number, url in enumerate(part.urls, 1):
        try:
            with Image.open(io.BytesIO(storage.read_bytes(url))) as image:
                fitted = image.convert("L" if channels == 1 else "RGB").resize((width, height))
                yield Drawing(image=np.asarray(fitted).reshape(settings.shape), key=url.rpartition("/")[2])
        except OSError as error:
            yield Refused(number, "damaged_image", "", str(error), file=storage.relative(url, settings.input))
