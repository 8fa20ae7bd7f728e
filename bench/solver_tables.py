"""The tables of bench/solvers.py as Markdown."""


def tables(record):
    """Return everything that was measured."""
    machine = record["machine"]
    text = [
        f"{machine['processor']}, {machine['threads']} threads, fastcryo {machine['fastcryo']}, "
        f"NumPy {machine['numpy']}, Numba {machine['numba']}, SciPy {machine['scipy']}."
    ]
    for name, table in (("solvers", solvers), ("diagonal", diagonal), ("kappa", kappa)):
        if name in record:
            text.append(table(record[name]))
    return "\n\n".join(text) + "\n"


def row(*cells):
    """Return a row."""
    return "| " + " | ".join(cells) + " |"


def excess(value):
    """Return a relative excess; below 1e-9 it is rounding."""
    return f"{value:.1e}" if value > 1e-9 else "< 1e-9"


def solvers(entries):
    """Return a table for every box and objective."""
    text = []
    for entry in entries:
        seconds = entry["seconds"]
        text += [
            f"N = {entry['box']}, {entry['images']} images, {entry['objective']}: H takes "
            f"{seconds['assembling']:.2g} s to assemble and {1e3 * seconds['product']:.2g} ms per "
            f"product, a gradient of all images {seconds['gradient']:.2g} s.",
            "",
            row("method", "iterations", "seconds", "excess loss"),
            "|---|---|---|---|",
        ]
        for name, found in entry["rows"].items():
            steps = f"{found['steps']}"
            if found["unit"] != "iterations":
                steps += f" {found['unit']}"
            text.append(row(name, steps, f"{found['seconds']:.3g}", excess(found["excess"])))
        text.append("")
    return "\n".join(text).rstrip()


def diagonal(found):
    """Return the sentence on diagonals and products."""
    seconds = found["seconds"]
    through = seconds["product through the images"]
    return (
        f"N = {found['box']}, {found['images']} images ({found['views']}): diag H takes "
        f"{seconds['diagonal']:.3g} s, a product through the images {through:.3g} s, so 1000 "
        f"epochs of Hutchinson products {found['diagonal_ratio']:.0f} times as long as the exact "
        f"diagonal. H takes {seconds['assembling']:.3g} s to assemble, "
        f"{found['bytes'] / 2**30:.2g} GiB, and {1e3 * seconds['assembled product']:.3g} ms per "
        f"product, {found['product_ratio']:.0f} times less than through the images; the two differ "
        f"by {found['difference']:.1e}."
    )


def kappa(found):
    """Return the table of condition numbers."""
    titles = {None: "H", "exact": "scaled by J", "gridding": "scaled by rho"}
    cells = {}
    for entry in found:
        text = f"{entry['kappa']:.3g}"
        if not entry["converged"]:
            high = "" if entry["high"] is None else f" to {entry['high']:.2g}"
            text += f", not converged ({entry['low']:.2g}{high or ' or more'})"
        cells.setdefault((entry["views"], entry["radius"]), {})[entry["scaling"]] = text
    text = [row("views", "R", *titles.values()), "|---|---|---|---|---|"]
    for (name, radius), by_scaling in cells.items():
        text.append(row(name, str(radius), *(by_scaling[s] for s in titles)))
    return "\n".join(text)
