"""Reads a mount the way people's programs do, and compares with the files it was made from. Usage: data_tour.py MOUNT ORIGINAL.

Prints `ok` at the end; any wrong byte or failed read ends it with an error.
"""

import hashlib
import mmap
import multiprocessing
import os
import pathlib
import random
import sqlite3
import sys

import duckdb
import numpy
from safetensors import safe_open

mount, original = map(pathlib.Path, sys.argv[1:3])


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parquet():
    query = """SELECT kind, count(*), sum(id), bit_xor(noise), max(name) FROM '{}/parquet/*.parquet'
        GROUP BY kind ORDER BY kind"""
    assert duckdb.sql(query.format(mount)).fetchall() == duckdb.sql(query.format(original)).fetchall()


def sqlite():
    def rows(folder):
        database = sqlite3.connect(f"file:{folder}/rows.sqlite?mode=ro&immutable=1", uri=True)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = database.execute("SELECT id, body FROM rows WHERE kind = 5 ORDER BY id").fetchall()
        database.close()
        return found

    assert rows(mount) == rows(original)


def tensors():
    with safe_open(mount / "model.safetensors", "numpy") as ours, safe_open(original / "model.safetensors", "numpy") as theirs:
        assert list(ours.keys()) == list(theirs.keys())
        for name in ours.keys():
            assert numpy.array_equal(ours.get_tensor(name), theirs.get_tensor(name)), name


def mapping():
    """The mapping outlives its descriptor; in between other programs push the file out of the stores."""
    with open(mount / "big.bin", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for path in sorted((mount / "parquet").iterdir()):
        sha256(path)
    wanted = (original / "big.bin").read_bytes()
    offsets = list(range(0, len(wanted), 64 * 1024))
    random.Random(3).shuffle(offsets)
    for at in offsets:
        assert mapped[at : at + 4096] == wanted[at : at + 4096], f"page at {at}"
    assert hashlib.sha256(mapped).digest() == hashlib.sha256(wanted).digest()
    mapped.close()


def read_shuffled(seed):
    paths = [path.relative_to(original) for path in sorted(original.rglob("*")) if path.is_file()]
    random.Random(seed).shuffle(paths)
    for path in paths[: len(paths) // 2]:
        assert sha256(mount / path) == sha256(original / path), path


def shuffled():
    with multiprocessing.Pool(8) as pool:
        pool.map(read_shuffled, range(8))


for step in [parquet, sqlite, tensors, mapping, shuffled]:
    step()
    print(f"{step.__name__}: equal", flush=True)
assert not os.path.exists(mount / "no such file")
print("ok")
