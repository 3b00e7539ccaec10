"""Writes real data into a directory: Parquet, SQLite, safetensors, text and binary files. Usage: data_make.py DIR.

The same bytes each time, but for what the formats themselves vary; what is read back is compared with these files.
"""

import pathlib
import sqlite3
import sys

import duckdb
import numpy
from safetensors.numpy import save_file

folder = pathlib.Path(sys.argv[1])
random = numpy.random.default_rng(7)

(folder / "parquet").mkdir(parents=True)
for part in range(4):
    duckdb.sql(
        f"""COPY (SELECT i AS id, i % 97 AS kind, hash(i + {part}) AS noise, 'row ' || i AS name
        FROM range({part * 200_000}, {(part + 1) * 200_000}) r(i))
        TO '{folder}/parquet/part-{part}.parquet' (FORMAT parquet, ROW_GROUP_SIZE 20000)"""
    )

database = sqlite3.connect(folder / "rows.sqlite")
database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, kind INTEGER, body BLOB)")
blobs = ((n, n % 13, random.bytes(400)) for n in range(40_000))
database.executemany("INSERT INTO rows VALUES (?, ?, ?)", blobs)
database.execute("CREATE INDEX by_kind ON rows (kind)")
database.commit()
database.close()

tensors = {f"layer.{n}.weight": random.standard_normal((1024, 1024), dtype=numpy.float32) for n in range(8)}
save_file(tensors, folder / "model.safetensors")

(folder / "big.bin").write_bytes(random.bytes(48 << 20))

words = ["larder", "cache", "chunk", "replica", "needle", "bucket", "epoch"]
for directory in range(10):
    below = folder / "text" / f"d{directory}"
    below.mkdir(parents=True)
    for file in range(40):
        picked = random.integers(0, len(words), size=3000)
        lines = (" ".join(words[w] for w in picked[at : at + 10]) for at in range(0, 3000, 10))
        (below / f"f{file:02}.txt").write_text("\n".join(lines) + "\n")

(folder / "empty").write_bytes(b"")
print("ok")
