import pytest

from boceto.holdout import held_out


def test_a_share_is_chosen_by_each_key_alone():
    keys = [str(number).encode() for number in range(2000)]
    chosen = held_out(0, 0.2, keys)
    assert chosen.mean() == pytest.approx(0.2, abs=0.03)
    assert (held_out(0, 0.2, keys[:100]) == chosen[:100]).all()
    assert (held_out(1, 0.2, keys) != chosen).any()
