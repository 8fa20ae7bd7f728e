"""Time fastcryo side by side with other programs: ``python bench/compare_peers.py``.

Peers that are missing are skipped with the reason. Writes a JSON record and, beside it, the tables
as Markdown, after every box; ``--boxes 256 --add`` keeps the other boxes of an earlier record.
``--quick`` takes a toy size.
"""

import argparse
import sys
from pathlib import Path

from measure import machine, records
from measure.sections_peers import OURS, fastest_rates, lead, peers_section
from peers import PEERS
from peers.rounds import compare
from rich.console import Console
from rich.table import Table

from fastcryo.io.atomic import replacing

BOXES = (64, 128, 192, 256)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it runs")
    parser.add_argument("--boxes", type=int, nargs="+", default=BOXES)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--add", action="store_true", help="keep other boxes of the record")
    parser.add_argument("--out", type=Path, default=records.part_file("peers"))
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.boxes, chosen.images, chosen.rounds = [32], 16, 2
    return chosen


def merge(earlier: dict, record: dict) -> dict:
    """Return a record with what an earlier one has of other boxes, and of their peers."""
    boxes = {row["box"] for row in record["rows"]}
    merged = dict(record)
    for table in ("rows", "errors", "peaks"):
        kept = [row for row in earlier.get(table, []) if row["box"] not in boxes]
        merged[table] = kept + record[table]
    names = {peer["name"] for peer in record["peers"]}
    others = [peer for peer in earlier.get("peers", []) if peer["name"] not in names]
    return merged | {"peers": record["peers"] + others}


def show(console: Console, record: dict) -> None:
    """Print rates and leads."""
    rates = fastest_rates(record)
    boxes = sorted({row["box"] for row in record["rows"]})
    table = Table(title=f"images/s, {record['threads']} threads")
    for header in ("operation", "peer", *(f"N = {box}" for box in boxes)):
        table.add_column(header, justify="left" if header in ("operation", "peer") else "right")
    for kind in ("forward", "adjoint", "gradient"):
        for peer in record["peers"]:
            values = [rates.get((kind, peer["name"], box)) for box in boxes]
            if any(values):
                table.add_row(kind, peer["name"], *(f"{v:,.0f}" if v else "" for v in values))
        leads = [lead(rates, kind, box) for box in boxes]
        cells = (f"{value:.1f}x" if value else "" for value in leads)
        table.add_row(kind, f"[bold]{OURS} over the best peer", *cells, end_section=True)
    console.print(table)
    for name, reason in record["skipped"].items():
        console.print(f"left out: {name}: {reason}", markup=False, highlight=False)


def main() -> int:
    """Compare, print and write."""
    chosen = parse()
    console = Console()
    started = {"machine": machine.describe(), "quick": chosen.quick}
    earlier = records.load(chosen.out) if chosen.add and chosen.out.exists() else {}
    with console.status("starting") as status:
        found_by_box = compare(
            chosen.peers,
            chosen.boxes,
            images=chosen.images,
            threads=chosen.threads,
            rounds=chosen.rounds,
            at_least=0.0 if chosen.quick else 0.1,
            tell=status.update,
        )
        for box, found in zip(chosen.boxes, found_by_box, strict=True):
            # Kept after every box: a run that is stopped loses one.
            record = merge(earlier, started | found)
            records.save(chosen.out, record)
            with replacing(chosen.out.with_suffix(".md")) as temporary:
                temporary.write_text("\n".join(peers_section(record)) + "\n", encoding="utf-8")
            console.print(f"N = {box}: done")
    show(console, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
