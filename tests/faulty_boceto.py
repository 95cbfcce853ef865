"""`python faulty_boceto.py FAULT words…`: `boceto words…` with a fault in its storage (`faulty_store.Fault`, JSON)."""

import json
import sys

import faulty_store

from boceto import process
from boceto.__main__ import main

if __name__ == "__main__":
    faulty_store.install(faulty_store.Fault(**json.loads(sys.argv[1])))
    process.end(main(sys.argv[2:]))
