import io
import json

import pytest
from PIL import Image

from boceto import storage
from eval_jobs.__main__ import main


@pytest.fixture
def evaluate(capsys):
    """Runs `boceto eval --json`: returns (exit code, result or None, text on standard error)."""

    def run(data, folder, *flags):
        code = main(["--data", data, "--run", folder, "--json", "--bootstrap", "50", *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_an_evaluation_writes_scores_report_and_picture(make_data, make_run, evaluate):
    data = make_data(classes=6, train=4, test=4)
    code, result, err = evaluate(data, make_run(data), "--batch-size", "5")
    assert code == 0
    assert 0 <= result["test_accuracy"] <= result["top5"] <= 1
    assert result["images_per_second"] > 0
    assert "mAP" in err
    scores = json.loads(storage.read_bytes(result["scores"]))
    assert scores["splits"]["test"]["accuracy"]["value"] == result["test_accuracy"]
    assert set(scores["retrieval"]["rankings"]) == {"l2", "l2_normalised", "cosine"}
    assert "saved_model.pb" in scores["artefact"]["files"]
    assert storage.read_bytes(result["report"]).decode().count("class 3") >= 1
    Image.open(io.BytesIO(storage.read_bytes(result["picture"]))).verify()
