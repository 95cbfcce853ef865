import os
import re
from dataclasses import dataclass

import pytest

from boceto import settings
from boceto.errors import SettingsError
from boceto.settings import option


@dataclass(frozen=True)
class Example:
    data: str = option(help="where from")
    epochs: int = option(30, help="passes", at_least=1, at_most=100)
    rate: float = option(0.5, help="speed", at_least=0)
    net: str = option("sknet", help="which", choices=("sknet", "skresnet"))
    share: float | None = option(None, help="maybe")
    fast: bool = option(False, help="hurry")


@dataclass(frozen=True)
class Listed:
    set: tuple[str, ...] = option((), help="some texts")
    splits: str = option("", help="some names", listed=True)


def test_a_list_is_a_list_in_toml_and_a_repeated_flag(tmp_path):
    (tmp_path / "s.toml").write_text('[submit]\nset = ["a=1,2", "b=\\"3\\""]\n')
    words = [[], ["--config", str(tmp_path / "s.toml")], ["--set", "a=1,2", "--set", "b"]]
    found = [settings.parse(Listed, "submit", each, "") for each in words]
    assert [each.settings.set for each in found] == [(), ("a=1,2", 'b="3"'), ("a=1,2", "b")]
    assert settings.to_flags(found[2].settings) == [*words[2], "--splits", ""]
    for text, message in (
        ("'x'", "'x' is not a list of texts"),
        ("[1]", "is not a list of texts"),
        ('["\\u0007"]', "has a control character"),
    ):
        (tmp_path / "s.toml").write_text(f"[submit]\nset = {text}\n")
        with pytest.raises(SettingsError, match=message):
            settings.parse(Listed, "submit", words[1], "")


def test_a_list_for_a_text_with_commas_is_joined(tmp_path):
    (tmp_path / "s.toml").write_text('[eval]\nsplits = ["test", "train"]\n')
    found = settings.parse(Listed, "eval", ["--config", str(tmp_path / "s.toml")], "")
    assert found.settings.splits == "test,train"
    assert settings.parse(Listed, "eval", ["--splits", "test\ntrain"], "").settings.splits == "test\ntrain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=3, epochs=4", r"where = 'epochs=3, epochs=4' gives 'epochs' twice; give it once"),
        ("epochs", r"'epochs' has no value; write name=value, name=value"),
        ("data=d, colour=1", r"unknown setting where\.colour; the settings are data, epochs"),
    ],
)
def test_options_in_a_text_are_checked_alike(text, message):
    assert settings.from_text(Example, "data=d, epochs=4", "where") == Example("d", 4)
    with pytest.raises(SettingsError, match=message):
        settings.from_text(Example, text, "where")


def _parse(*words):
    return settings.parse(Example, "train", words, "An example.")


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[train]\ndata = "d"\nepochs = 3\nnet = "skresnet"\nfast = true\n[prepare]\nsize = 64\n')
    asked = _parse("--config", str(file), "--epochs", "5", "--json").settings
    assert asked == Example("d", 5, 0.5, "skresnet", None, True)


def test_what_stands_behind_two_dashes_is_handed_on():
    words = ["--data", "d", "--", "--epochs", "x"]
    asked = settings.parse(Example, "prepare", words, "An example.", hands_on=True)
    assert asked.rest == ("--epochs", "x")
    assert asked.settings.epochs == 30


def test_a_dash_in_a_toml_name_is_an_underscore(tmp_path):
    @dataclass(frozen=True)
    class Other:
        batch_size: int = option(1, help="b")

    file = tmp_path / "run.toml"
    file.write_text("[train]\nbatch-size = 7\n")
    assert settings.parse(Other, "train", ["--config", str(file)], "").settings.batch_size == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"train\.data is missing; give --data"),
        (("--data", ""), r"train\.data is missing; give --data"),
        (("--data", "d", "--", "--epochs", "3"), r"boceto train has no use for what stands behind `--`: '--epochs'"),
        (("--data", "d", "--epochs", "9" * 20), r"train\.epochs has more than 63 bits; use a smaller number"),
        (("--data", "d", "--config", ""), r"--config : Is a directory"),
        (("--data", "d", "--epochs", "0"), r"train\.epochs = 0 is too small; use at least 1"),
        (("--data", "d", "--epochs", "101"), r"train\.epochs = 101 is too large; use at most 100"),
        (("--data", "d", "--epochs", "1.5"), r"train\.epochs = '1\.5' is not a whole number"),
        (("--data", "d", "--rate", "nan"), r"train\.rate = nan is not a finite number"),
        (("--data", "d", "--rate", "inf"), r"train\.rate = inf is not a finite number"),
        (("--data", "d", "--net", "vgg"), r"train\.net = 'vgg' is unknown; choose one of sknet, skresnet"),
        (("--data", "d", "--epoch", "3"), r"unrecognized arguments: --epoch 3; see `boceto train --help`"),
        (("--config", "/no/such.toml"), r"--config /no/such\.toml: No such file"),
    ],
)
def test_an_error_says_the_value_the_place_and_the_remedy(words, message):
    with pytest.raises(SettingsError, match=message):
        _parse(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\ndata='d'\ncolour = 1\n", r"unknown setting train\.colour; the settings are data, epochs, fast"),
        ("[trian]\n", r"unknown table 'trian'; the tables are"),
        ("epochs = 3\n", r"unknown table 'epochs'"),
        ("[train]\ndata='d'\nepochs = true\n", r"train\.epochs = True is not a whole number"),
        ("[train]\ndata='d'\nfast = 'yes'\n", r"train\.fast = 'yes' is not true or false"),
        ("[train]\ndata = ['a', 'b']\n", r"train\.data = \['a', 'b'\] is a list, not text"),
        ("[train]\ndata='d'\nnet = ['sknet']\n", r"train\.net = \['sknet'\] is a list, not text"),
        ("[train\n", "is not TOML"),
        ("[train]\ndata='d'\nepochs = 1" + 4300 * "0", "is not TOML: Exceeds the limit"),
        ("[train]\ndata='d'\nepochs = 0x1" + 4300 * "0", r"train\.epochs has more than 63 bits"),
        ("[train]\ndata='d'\nrate = 1" + 400 * "0", r"train\.rate has more than 63 bits"),
    ],
)
def test_a_file_is_checked_like_the_flags(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        _parse("--config", str(file))


@pytest.mark.parametrize("word", ["a\udcff", "a\0b", "a\r", "a\nb", "\x1b[31m"])
def test_a_word_that_is_no_readable_text_is_refused(word):
    with pytest.raises(
        SettingsError,
        match=re.escape(f"train.data = {word!r} is not readable text: it has a control character; rename it"),
    ):
        _parse("--data", word)


def test_help_names_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        _parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in ("--data", "--epochs", "--rate", "--net sknet|skresnet", "--no-fast", "default: 30", "required"):
        assert field in text


def test_a_byte_order_mark_before_a_settings_file_does_no_harm(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + b"[train]\ndata = 'd'\nepochs = 7\n")
    assert _parse("--config", str(tmp_path / "s.toml")).settings.epochs == 7


def test_a_settings_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.toml")
    with pytest.raises(SettingsError, match="is a pipe, a device or a socket"):
        _parse("--config", str(tmp_path / "s.toml"))
