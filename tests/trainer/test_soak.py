from soak import soak


def test_real_runs_that_are_killed_at_random_end_as_if_nothing_had_happened(make_data, tmp_path):
    killed, runs = soak(make_data(classes=3, train=40), tmp_path, kills=2, seed=0)
    assert killed >= 2
    assert runs >= 1
