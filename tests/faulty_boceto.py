"""`python faulty_boceto.py FAULT words…`: `boceto words…` with a fault in its storage (`faulty_store.Fault`, JSON)."""

import json
import sys
from pathlib import Path

import faulty_store

from boceto import process
from boceto.__main__ import main
from trainer import nets

if __name__ == "__main__":
    nets.__path__.append(str(Path(__file__).parent / "small_nets"))
    faulty_store.install(faulty_store.Fault(**json.loads(sys.argv[1])))
    process.end(main(sys.argv[2:]))
