"""What the kernels aim at, and whether a run of the measurements reached it."""

from .sections_peers import fastest_rates, lead
from .tables import figures, markdown, times

# fastcryo's rate over the best peer's, at every box.
LEADS = {"gradient": 10.0, "forward": 5.0, "adjoint": 8.0}


def aims(records: dict[str, dict]) -> list[tuple[str, str, str, bool]]:
    """Return figure, aim, what was measured and whether it was reached."""
    found = []
    if "peers" in records:
        found += _leads(records["peers"])
    if "kernels" in records:
        found += _ratios(records["kernels"])
    if "system" in records:
        found += _system(records["system"])
    if "epochs" in records:
        found += _epochs(records["epochs"])
    return found


def aims_section(records: dict[str, dict]) -> list[str]:
    """Return the table of aims."""
    rows = [
        [figure, aim, measured, "yes" if reached else "**no**"]
        for figure, aim, measured, reached in aims(records)
    ]
    return markdown(["figure", "aim", "measured", "reached"], rows)


def _leads(record: dict) -> list[tuple[str, str, str, bool]]:
    rates = fastest_rates(record)
    boxes = sorted({row["box"] for row in record["rows"]})
    found = []
    for kind, least in LEADS.items():
        values = {box: lead(rates, kind, box) for box in boxes}
        values = {box: value for box, value in values.items() if value is not None}
        if values:
            shown = ", ".join(f"{times(value)} at {box}" for box, value in values.items())
            reached = min(values.values()) >= least
            found.append((f"{kind} against the best peer", f"{least:g}× or more", shown, reached))
    return found


def _ratios(record: dict) -> list[tuple[str, str, str, bool]]:
    most = {
        "gradient per sample, N = 256 / N = 64": 1.5,
        "gradient and product / gradient": 1.4,
    }
    return [
        (name, f"{limit:g} or less", figures(record["ratios"][name], 3), value <= limit)
        for name, limit in most.items()
        if (value := record["ratios"].get(name)) is not None
    ]


def _system(record: dict) -> list[tuple[str, str, str, bool]]:
    found = []
    speed_up = record["threads"]["speed_up"].get("2")
    if speed_up is not None:
        found.append(("2 threads over 1", "1.8× or more", f"{speed_up:.2f}×", speed_up >= 1.8))
    same = record["same_bits"]["same"]
    found.append(("same bits for 1 to 4 threads", "yes", "yes" if same else "no", same))
    memory = record["memory"]
    name = f"extra memory of the gradient, N = {memory['box']}, {memory['threads']} threads"
    half_volumes = memory["half_volumes"]
    found.append((name, "one half volume", f"{half_volumes:.2f}", half_volumes <= 1))
    share = max(row["merging"] for row in record["fixed"])
    images = record["fixed"][0]["images"]
    name = f"zeroing and merging, {images} images, largest share"
    found.append((name, "10 % or less", f"{100 * share:.1f} %", share <= 0.1))
    first = record["start_up"]["first_gradient_seconds"]
    name = "first gradient after the import, cache warm"
    found.append((name, "1.5 s or less", f"{first:.2f} s", first <= 1.5))
    if "compilation" in record:
        seconds = record["compilation"]["compilation_seconds"]
        name = "compilation of all that the demonstration needs"
        found.append((name, "30 s or less", f"{seconds:.0f} s", seconds <= 30))
    return found


def _epochs(record: dict) -> list[tuple[str, str, str, bool]]:
    ours, theirs = record["epoch"], record["quoted"]["epoch"]
    gpu, large = record["quoted"]["published_gpu"], record["large_epoch"]
    faster = theirs["seconds"] / ours["seconds"]
    leaner = theirs["peak_mb"] / ours["peak_mb"]
    whole = large["seconds"] * gpu["images"] / large["images"]
    seconds = record["reconstruction"]["seconds"]
    what = f"{ours['images']} images, N = {ours['box']}"
    name = f"epoch of Algorithm 1, {what}, over the paper's code"
    return [
        (f"{name}: speed", "50× or more", times(faster), faster >= 50),
        (f"{name}: memory", "a tenth", f"1/{leaner:.1f}", leaner >= 10),
        (
            f"the same, {gpu['images']} images, N = {large['box']} (scaled from {large['images']})",
            f"{gpu['seconds']:g} s or less",
            f"{whole:.0f} s",
            whole <= gpu["seconds"],
        ),
        (
            f"`reconstruct`, {what}",
            "4 s or less",
            f"{seconds:.1f} s",
            seconds <= 4,
        ),
    ]
