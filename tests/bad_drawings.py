"""A good drawing as a line of QuickDraw says it, and bad ones with the reason for which each is refused."""

import numpy as np

GOOD = {"word": "cat", "drawing": [[[0, 255], [0, 10]], [[3], [4]]], "key_id": "12"}


def _spiral(points):
    """Each part of it is farther out than all before: thinning takes the square of its length."""
    turns = np.arange(points) * 0.5
    return [*(turns * (np.cos(turns), np.sin(turns))).tolist(), [0] * points]


BAD = [
    (b'{"word":"cat","drawing":[[[1,2],[3', "broken_json"),
    (b'{"word":"cat","drawing":[[[1,NaN],[3,4]]]}', "not_finite"),
    (b'{"word":"c\xff\xfeat","drawing":[[[1,2],[3,4]]]}', "not_utf8"),
    (b"[1, 2]", "wrong_type"),
    ({**GOOD, "word": "dog"}, "other_word"),
    ({"word": "cat"}, "no_strokes"),
    ({**GOOD, "drawing": []}, "no_strokes"),
    ({**GOOD, "drawing": "ink"}, "wrong_type"),
    ({**GOOD, "drawing": [[1, 2]]}, "wrong_type"),
    ({**GOOD, "drawing": [[["a", "b"], [1, 2]]]}, "wrong_type"),
    ({**GOOD, "drawing": [[[True, 2], [1, 2]]]}, "wrong_type"),
    ({**GOOD, "drawing": [[[1.5, 2], [1, 2]]]}, "wrong_type"),
    ({**GOOD, "drawing": [[[], []]]}, "uneven_stroke"),
    ({**GOOD, "drawing": [[[1, 2, 3], [1, 2]]]}, "uneven_stroke"),
    ({**GOOD, "drawing": [[[5], [7]]]}, "one_point"),
    ({**GOOD, "drawing": [[[5, 5], [7, 7]], [[5], [7]]]}, "one_point"),
    ({**GOOD, "drawing": [[[0, 256], [0, 1]]]}, "out_of_range"),
    ({**GOOD, "drawing": [[[0, -1], [0, 1]]]}, "out_of_range"),
    ({**GOOD, "drawing": [[[0, 1] * 40000, [0, 1] * 40000]]}, "too_many_points"),
    ({**GOOD, "drawing": [[[0, 1e16], [0, 1], [0, 1]]]}, "out_of_range"),
    ({**GOOD, "drawing": [[[0, True], [0, 1], [0, 1]]]}, "wrong_type"),
    ({**GOOD, "key_id": [1]}, "wrong_type"),
    ({**GOOD, "drawing": [[["1", "20"], ["3", "4"], [0, 1]]]}, "wrong_type"),
    ({**GOOD, "drawing": [[[0, 9], [0, 9], [0, 1]], [[1, 2], [3], [0]]]}, "uneven_stroke"),
    ({**GOOD, "drawing": [[[9 * (n % 2) for n in range(20000)], [0] * 20000, [0] * 20000]]}, "too_many_points"),
    ({**GOOD, "drawing": [_spiral(8000)]}, "too_many_points"),
    (b'{"word":"cat","drawing":[[[' + b"1," * 5_000_000 + b"1]]]}", "line_too_long"),
]
