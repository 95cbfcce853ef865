import json

from boceto import demo


def test_a_finished_demo_is_shown_and_starting_afresh_removes_only_what_the_chain_made(tmp_path, capsys, monkeypatch):
    scores = dict.fromkeys(("parameters", "train_accuracy", "test_accuracy", "map", "images_per_second"), 1)
    results = {"data": {"classes": 21}, **{net: {**scores, "picture": f"{net}.png"} for net in demo.NETS}}
    (tmp_path / "demo.json").write_text(json.dumps(results))
    for folder, mark in (
        ("data", "dataset.json"),
        ("sknet", "run.json"),
        ("photos", "mine.png"),
        ("skresnet", "mine.txt"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / mark).write_text("{}")
    assert demo.main(["--output", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == results
    assert "holds a finished demo already; `make demo FRESH=1`" in shown.err

    def fails(verb, *words):
        raise demo.StepFailed(verb, 65)

    monkeypatch.setattr(demo, "_program", fails)
    assert demo.main(["--output", str(tmp_path), "--fresh"]) == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "photos", "skresnet"]
    (tmp_path / "sknet").mkdir()
    (tmp_path / "sknet" / "run.json").write_text("{}")
    (tmp_path / "demo.json").unlink()
    assert demo.main(["--output", str(tmp_path), "--fresh"]) == 2
    assert "holds sknet, and no demo.json says that a demo made it" in capsys.readouterr().err
    assert (tmp_path / "sknet" / "run.json").exists()
    for damaged in ("{", '{"data": {}, "sknet": {}, "skresnet": {}}'):
        (tmp_path / "demo.json").write_text(damaged)
        assert demo.main(["--output", str(tmp_path)]) == 65
        assert "demo.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "photos" / "mine.png").exists()


def test_another_net_joins_what_is_there(tmp_path, capsys, monkeypatch):
    calls = []

    def program(verb, *words):
        calls.append((verb, *words[words.index("--net") + 1 :][:1]) if "--net" in words else (verb,))
        return {"classes": 21, **dict.fromkeys(demo.COLUMNS, 1), "picture": "p.png"}

    monkeypatch.setattr(demo, "_program", program)
    words = ["--output", str(tmp_path)]
    assert demo.main([*words, "--net", "simple"]) == 0
    assert calls == [("prepare",), ("train", "simple"), ("eval",)]
    assert demo.main([*words, "--net", "simple, cnn4"]) == 0
    assert calls[3:] == [("prepare",), ("train", "cnn4"), ("eval",)]
    assert demo.main([*words, "--net", "cnn4,simple"]) == 0
    assert len(calls) == 6
    assert "cnn4: test drawings" in capsys.readouterr().err
    assert demo.main([*words, "--net", "../mine"]) == 2
    assert "'../mine' is no net" in capsys.readouterr().err
