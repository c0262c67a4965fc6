"""Settings compared without a test set: defects planted in good pictures that were held out. Rows of trials.jsonl.

    python benchmarks/trials.py simplenet ../data/mvtec_ad screw noise=0.25 hidden=256
    python benchmarks/trials.py --table

A fifth of the good training pictures is held out (bench/trial.py); the model is fitted on the rest. The test set is
scored too and its figures are kept beside (`test`), for the log of docs/experiments.md: nothing is chosen by them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from inlier import evaluate, methods
from inlier.bench import trial
from inlier.data.datasets import open_dataset
from inlier.machine import about

ROWS = Path(__file__).parent / "trials.jsonl"
LOCAL = ("textures",)  # settings that are paths of this machine: the row keeps the name


def value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(method: str, data: str, category: str, preset: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    dataset = open_dataset(data, [category])
    fitted, held_out, _ = trial.hold_out(dataset, 0)
    start, busy = time.monotonic(), time.process_time()
    detector = methods.get(method)(preset, seed=seed, **settings).fit(fitted, calibration="none")
    seconds = {"fit": round(time.monotonic() - start), "fit_processor": round(time.process_time() - busy)}
    found = trial.run(detector, held_out)
    result = evaluate(detector, dataset).categories[category]
    per_cent = {"auroc": found.auroc, "ap": found.ap, "detection": found.detection(), "pixel_ap": found.pixel_ap or 0}
    return {
        "method": method,
        "preset": preset,
        "category": category,
        "settings": {k: Path(v).name if k in LOCAL else v for k, v in settings.items()},
        "seed": seed,
        "planted": {name: round(100 * number, 1) for name, number in per_cent.items()},
        "kinds": {kind: round(100 * share) for kind, share in found.by_kind().items()},
        "test": {
            "image": round(100 * (result.image.auroc or 0), 1),
            **({"pixel": round(100 * (result.pixel.auroc or 0), 1)} if result.pixel else {}),
            **({"aupro": round(100 * (result.pixel.aupro or 0), 1)} if result.pixel else {}),
        },
        "seconds": seconds,
        **about(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| method | category | settings | planted: AUROC / detected at 5 % / pixel AP | test: image / pixel / AUPRO "
        "| fit, processor s |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["method"], row["category"], json.dumps(row["settings"]))):
        p, settings = row["planted"], " ".join(f"{k}={v}" for k, v in row["settings"].items())
        test = " / ".join(str(number) for number in row["test"].values())
        planted = f"{p['auroc']} / {p['detection']} / {p['pixel_ap']}"
        name = f"{row['preset']} {settings}".strip() + (f", seed {row['seed']}" if row["seed"] else "")
        cells = row["method"], row["category"], name, planted, test, str(row["seconds"]["fit_processor"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of all rows")
    parser.add_argument("--preset", default="light")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("what", nargs="*", help="METHOD DATA CATEGORY [SETTING=VALUE ...]")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.rows.read_text().splitlines()]))
        return
    method, data, category, *pairs = arguments.what
    settings = {name: value(text) for name, _, text in (pair.partition("=") for pair in pairs)}
    row = run(method, data, category, arguments.preset, arguments.seed, settings)
    with arguments.rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
