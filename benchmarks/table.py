"""A markdown table whose rows are kept as soon as they are there: a script that is stopped loses none."""

from collections.abc import Sequence
from pathlib import Path


def keep(path: Path, about: str, heads: Sequence[str], row: Sequence[str], keys: int, order: Sequence[str]) -> None:
    """Put a row into the table in `path` in place of the one whose first `keys` cells are the same, up to a comma.

    about: the text above the table. order: of the first cells; rows that share one stay as they came.
    """

    def case(row: Sequence[str]) -> list[str]:
        return [cell.split(",")[0] for cell in row[:keys]]

    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]  # the first is the heads
    rows = [*(other for other in rows if case(other) != case(row)), list(row)]
    rows.sort(key=lambda row: order.index(row[0]))
    table = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    table.insert(1, "|---" * len(heads) + "|")
    path.write_text(about + "\n\n" + "\n".join(table) + "\n")
