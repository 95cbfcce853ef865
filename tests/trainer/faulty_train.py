"""`python faulty_train.py FAULT flags…`: `boceto train` with a fault in its storage (`faulty_store.Fault` as JSON)."""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # Of the tests; Boceto is installed.

import faulty_store

from trainer.__main__ import main

if __name__ == "__main__":
    fault = json.loads(sys.argv[1])
    if fault:
        faulty_store.install(faulty_store.Fault(**fault))
    sys.exit(main(sys.argv[2:]))
