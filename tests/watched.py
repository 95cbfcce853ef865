"""What the tests of the monitoring share: input with a fault in it, and questions to a Prometheus."""

import json
import math
import time
import urllib.parse
import urllib.request

import dashboards

PANELS = [
    (f"{name}: {panel.title}", query)
    for name, (_, panels) in dashboards.DASHBOARDS.items()
    for panel in panels
    for query in panel.expressions
]


def draw(folder):
    """Input of four categories: 60 zigzags each, and one line that is none."""
    for label, category in enumerate(("cat", "dog", "eye", "fan")):
        lines = ['{"word": "cat", "drawing": [[['] if label == 0 else []
        for number in range(60):
            ink = [[[0, 60 + number, 20 * label, 200], [0, 40 * label, 100 + number, 10 * label]]]
            entry = {"word": category, "key_id": f"{label}{number:03}", "recognized": True, "drawing": ink}
            lines.append(json.dumps(entry))
        (folder / f"{category}.ndjson").write_text("\n".join(lines) + "\n")


def get(address):
    """What stands at an address."""
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own
        return answer.read().decode()


def series(address, query, began, step="1"):
    """What a Prometheus knows since a time, `step` seconds apart."""
    end = math.ceil(time.time())
    words = urllib.parse.urlencode({"query": query, "start": began, "end": end, "step": step})
    answer = json.loads(get(f"{address}/api/v1/query_range?{words}"))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def values(address, query, began, step="1"):
    """The numbers of all series of a query."""
    return [float(value) for one in series(address, query, began, step) for _, value in one["values"]]


def shows(address, query, began):
    """Whether a panel's query has something to show."""
    found = values(address, query.replace("$namespace", ".*").replace("$run", ".*"), began, "0.25")
    return any(map(math.isfinite, found))
