"""docs/capacity.md: cores, disk and network of large plants, computed from the rates in benchmarks/fleet.jsonl.

python benchmarks/fleet.py rates --pictures 200 && python benchmarks/capacity.py
"""

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "capacity.md"
# what is assumed; change it here
PICTURE = 500e3  # bytes of a picture: JPEG, two megapixels
BUSY = 0.7  # share of the time that a core may be busy before pictures queue
DEFECTS = 0.01  # share of pictures that are kept, with all near the threshold
RECORD = 1000  # bytes of a record of a station, indexes included
DAYS = 30  # that kept pictures and rows stay
NIGHT = 6 * 3600  # seconds
CHANGED = 1.0  # share of parts whose pictures changed since last night
GOOD = 200  # good pictures of a part
SECONDS = 86_400


def page(rates: dict[str, Any]) -> str:
    judge, fit = rates["picture_processor_seconds"], rates["fit_processor_seconds"] * GOOD / rates["pictures"]
    cameras, parts, day = 1000, 5000, 100e6
    kept = cameras * SECONDS * (RECORD + DEFECTS * PICTURE)
    rows = [
        (
            "1,000 cameras at 1 Hz",
            cores(cameras * judge / BUSY),
            f"{size(kept)} a day, {size(DAYS * kept)} in {DAYS} days",
            network(cameras * PICTURE, 1),
            network(kept, SECONDS),
        ),
        (
            f"5,000 parts of {GOOD} pictures, retrained in {NIGHT // 3600} h",
            cores(CHANGED * parts * fit / NIGHT),
            f"{size(parts * GOOD * PICTURE)} of pictures, {size(parts * rates['model_bytes'])} of models a night",
            network(parts * GOOD * PICTURE, NIGHT),
            network(parts * rates["model_bytes"], NIGHT),
        ),
        (
            "100 million pictures a day in bulk",
            cores(day * judge / SECONDS),
            f"{size(day * rates['row_bytes'])} of rows a day, {size(day * PICTURE)} of pictures if all were kept",
            network(day * PICTURE, SECONDS),
            network(day * rates["row_bytes"], SECONDS),
        ),
    ]
    told = rates["machine"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""# Capacity on paper

Written by `benchmarks/capacity.py` from rates that `benchmarks/fleet.py rates` measured: {told["processor"]}, one
thread, PaDiM `light`, JPEG pictures of 1024 x 1024 pixels. **Computed, not run**: no plant of this size was at hand.

| | |
|---|---|
| judging a picture, file to verdict | {1000 * judge:.1f} ms of a core |
| fitting a part of {GOOD} pictures, calibration included | {fit:.1f} s of a core |
| a model | {size(rates["model_bytes"])} |
| a row of bulk judging, in Parquet | {rates["row_bytes"]:.0f} bytes |

Assumed: a picture has {PICTURE / 1e3:.0f} kB; cores of stations are busy {100 * BUSY:.0f} % of the time at most;
{100 * DEFECTS:.0f} % of a station's pictures are kept for {DAYS} days; every part has changed every night, the
worst case (what has not changed is skipped).

| plant | cores like this one | disk | network, if pictures move to the cores | ... if only results do |
|---|---|---|---|---|
{table}

## Where the data should not move

- **Cameras**: judge where pictures are made. A station's machine with a few cores takes tens of cameras, and sends
  records and the few pictures that are kept. The last column is what the plant's network carries then.
- **Training**: run shards or Ray nodes beside the storage server: pictures are read two or three times a night. A PaDiM
  model, with a Gaussian for every place, is as large as all the pictures it comes from, and every night's is kept:
  delete those that nothing names, or take a smaller `size`, or a method whose models are smaller.
- **Bulk**: decoding is part of the rate above, so cores belong to where the pictures lie. Rows are a ten-thousandth
  of the pictures; collect those.

Other methods, sizes and runtimes change the rates, not the logic: exported models are about twice as fast
([benchmarks/RUNTIMES.md](../benchmarks/RUNTIMES.md)), and `inlier profile` measures yours.
"""


def cores(n: float) -> str:
    return f"{math.ceil(n):,}"


def size(n: float) -> str:
    """
    >>> size(2.5e9)
    '2.5 GB'
    """
    for unit, of in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= of:
            return f"{n / of:.3g} {unit}"
    return f"{n / 1e3:.3g} kB"


def network(n: float, seconds: float) -> str:
    """Bytes in so many seconds, as bits a second."""
    bits = 8 * n / seconds
    return f"{bits / 1e9:.2g} Gbit/s" if bits >= 1e8 else f"{bits / 1e6:.2g} Mbit/s"


def newest() -> dict[str, Any]:
    rows = [json.loads(line) for line in (HERE / "fleet.jsonl").read_text().splitlines()]
    return [row for row in rows if row["command"] == "rates"][-1]


if __name__ == "__main__":
    PAGE.write_text(page(newest()))
