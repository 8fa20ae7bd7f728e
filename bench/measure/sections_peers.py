"""The peers' part of bench/RESULTS.md, from its record."""

from .tables import figures, markdown, rate, times

OURS = "fastcryo"
# A gradient may be had in two ways.
KINDS = {
    "forward": ("forward",),
    "adjoint": ("adjoint",),
    "gradient": ("gradient", "gradient by autodiff"),
}
TITLES = {
    "forward": "Forward slices",
    "adjoint": "Adjoint",
    "gradient": "Full gradient of ½‖C P V − y‖², loss included",
}


def fastest_rates(record: dict) -> dict[tuple[str, str, int], float]:
    """Return images/s by kind of operation, peer and box: the better of the ways to get it."""
    found: dict[tuple[str, str, int], float] = {}
    for kind, operations in KINDS.items():
        for row in record["rows"]:
            if row["operation"] in operations:
                key = kind, row["peer"], row["box"]
                found[key] = max(found.get(key, 0.0), row["images_per_second"])
    return found


def lead(rates: dict[tuple[str, str, int], float], kind: str, box: int) -> float | None:
    """Return our rate over the best peer's, or None where one is missing."""
    ours = rates.get((kind, OURS, box))
    others = [r for (k, p, b), r in rates.items() if k == kind and b == box and p != OURS]
    return ours / max(others) if ours and others else None


def peers_section(record: dict) -> list[str]:
    """Return the lines of the section."""
    rates = fastest_rates(record)
    boxes = sorted({row["box"] for row in record["rows"]})
    names = [peer["name"] for peer in record["peers"]]
    rounds = min((row["rounds"] for row in record["rows"]), default=0)
    lines = [
        f"Images/s, batch of {record['images']} images, {record['threads']} threads and as many "
        f"processors for each, single precision, no padding; median of {rounds} rounds in which "
        "all took turns, each in a process of its own. Views are uniformly random. FINUFFT goes "
        "from real space to slices and back; the others start from and end with the volume's "
        "transform.",
        "",
    ]
    for kind, title in TITLES.items():
        rows = []
        for name in names:
            cells = [rates.get((kind, name, box)) for box in boxes]
            if any(cells):
                rows.append([name, *(rate(cell) if cell else "" for cell in cells)])
        leads = [lead(rates, kind, box) for box in boxes]
        if any(leads):
            rows.append(["**fastcryo over the best peer**", *(_bold(value) for value in leads)])
        lines += [f"### {title}", ""]
        lines += [*markdown(["peer", *(f"N = {box}" for box in boxes)], rows), ""]
    lines += ["### What each computes, and how exactly", ""]
    lines += [
        "Error: root of the summed squares of slices minus the direct sum over all voxels, over "
        "that of the direct sum, at random frequencies within the disc |k| ≤ R; the volume is "
        "white noise within a sphere of half the box's radius. Without padding the trilinear "
        "window itself is most of it: cryojax divides the volume by its transform beforehand, "
        "fastcryo's `to_map` multiplies by it at the end of a reconstruction. Peak: resident "
        "memory of the process at the largest box, interpreter and libraries included.",
        "",
    ]
    lines += markdown(
        ["peer", "version", "computes", *(f"error, N = {box}" for box in boxes), "peak, MB"],
        [
            [
                *(peer["name"], peer["version"], peer["what"]),
                *_errors(record, peer, boxes),
                _peak(record, peer, boxes),
            ]
            for peer in record["peers"]
        ],
    )
    if record["skipped"]:
        lines += ["", "Left out:", ""]
        lines += [f"* {name}: {reason}" for name, reason in record["skipped"].items()]
    return lines


def _bold(value: float | None) -> str:
    return f"**{times(value)}**" if value else ""


def _errors(record: dict, peer: dict, boxes: list[int]) -> list[str]:
    found = {(e["peer"], e["box"]): e["error"] for e in record["errors"]}
    values = [found.get((peer["name"], box)) for box in boxes]
    return [figures(value) if value is not None else "" for value in values]


def _peak(record: dict, peer: dict, boxes: list[int]) -> str:
    for row in record["peaks"]:
        if row["peer"] == peer["name"] and row["box"] == boxes[-1] and row.get("peak_mb"):
            return f"{row['peak_mb']:,.0f}"
    return ""
