"""The parts of bench/RESULTS.md about kernels, the system and whole runs, from their records."""

from .tables import figures, markdown, rate, times


def machine_section(records: dict[str, dict]) -> list[str]:
    """Return what was measured on, from the records of all parts."""
    lines = []
    for part, record in records.items():
        m = record["machine"]
        if not lines:
            versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
            lines += [
                f"{m['processor']}, {m['cores']} cores, caches {m['caches']}, "
                f"{m['memory_gib']} GiB, {m['system']}; Python {m['python']}, {versions}.",
                "",
            ]
        quick = ", quick: figures of a toy size" if record["quick"] else ""
        lines.append(
            f"* {part}: {m['date']}, revision {m['revision']}, load {m['load_before']} "
            f"when it began{quick}"
        )
    return lines


def pivot(rows: list[dict], label: str, value: str, show) -> list[str]:
    """Return a table with a line per label and a column per box."""
    boxes = sorted({row["box"] for row in rows})
    labels = list(dict.fromkeys(row[label] for row in rows))
    cells = {(row[label], row["box"]): show(row[value]) for row in rows if value in row}
    return markdown(
        [label, *(f"N = {box}" for box in boxes)],
        [[name, *(cells.get((name, box), "") for box in boxes)] for name in labels],
    )


def kernels_section(record: dict) -> list[str]:
    """Return rates, times per sample and fractions of the ceilings."""
    rows = [dict(row) for row in record["rows"]]
    most = max(row["threads"] for row in rows)
    stream = next((r["stream_gb_per_second"] for r in rows if r["threads"] == most), None)
    for row in rows:
        window = f", {row['window']}" if row["window"] == "nearest" else ""
        row["operation"] = f"{row['operation']}{window}"
    full = [row for row in rows if row["threads"] == most and row["test"] == "bench_operation"]
    single = [row for row in rows if row["test"] == "bench_gradient_on_one_thread"]
    other = [row for row in rows if row["test"] in ("bench_preparation", "bench_iteration")]
    images = max(row["images"] for row in full)
    lines = [
        f"Batch of {images} images with CTFs, single precision, {most} threads, trilinear unless "
        "said; medians of at least 7 rounds (`bench/bench_kernels.py`).",
        "",
        "### Images/s",
        "",
        *pivot(full + other, "operation", "images_per_second", rate),
        "",
        "### Nanoseconds per half-disc sample",
        "",
        *pivot(full, "operation", "ns_per_sample", figures),
        "",
        "Gradient on one thread:",
        "",
        *pivot(single, "operation", "ns_per_sample", figures),
        "",
        "### Fractions of the ceilings",
        "",
        "Of the cache: the time of the same kernel when a few images are repeated, so that the "
        "volume around their planes and their data stay in the first-level cache tile by tile, "
        "over its time on random views. Of the memory: the bytes that have to be moved at least "
        "once (data, weights, volumes; `bench/measure/counts.py`) per second, over the STREAM "
        + (f"triad's {figures(stream, 3)} GB/s in the same run." if stream else "triad's."),
        "",
    ]
    tri = [row for row in full if row["window"] == "trilinear"]
    lines += ["Of the cache:", "", *pivot(tri, "operation", "fraction_of_l1_rate", figures), ""]
    lines += ["Of the memory:", "", *pivot(tri, "operation", "dram_fraction", figures), ""]
    lines += ["Gflop/s:", "", *pivot(tri, "operation", "gflops", figures)]
    if record["ratios"]:
        lines += ["", "### Ratios of one run, in turns, one thread", ""]
        lines += markdown(
            ["ratio", "this run"], [[n, figures(v, 3)] for n, v in record["ratios"].items()]
        )
    return lines


def system_section(record: dict) -> list[str]:
    """Return start-up, compilation, memory, threads and fixed cost."""
    start, threads, memory = record["start_up"], record["threads"], record["memory"]
    same = "yes" if record["same_bits"]["same"] else "NO"
    numbers = ", ".join(str(n) for n in record["same_bits"]["threads"])
    figure_of = {
        "`import fastcryo`": f"{start['import_seconds']:.2f} s",
        "from there to the first gradient, cache warm": f"{start['first_gradient_seconds']:.2f} s",
    }
    if "compilation" in record:
        made = record["compilation"]
        name = "`fastcryo demo` with an empty cache of kernels"
        figure_of[name] = f"{made['demo_seconds']:.0f} s"
        figure_of["of which compiling"] = f"{made['compilation_seconds']:.0f} s"
    peak = f"gradient, N = {memory['box']}, {memory['threads']} threads: peak of its allocations"
    figure_of[peak] = f"{memory['half_volumes']:.2f} half volumes beside V and the result"
    figure_of[f"same bits with {numbers} threads"] = same
    lines = [*markdown(["figure", "measured"], figure_of.items()), ""]
    lines += [f"Gradient by number of threads, N = {threads['box']}:", ""]
    lines += markdown(
        ["threads", "images/s", "over one thread"],
        [
            [n, rate(value), f"{threads['speed_up'][n]:.2f}×"]
            for n, value in threads["images_per_second"].items()
        ],
    )
    images = record["fixed"][0]["images"]
    lines += ["", f"Parts of the gradient of {images} images that do not grow with these:", ""]
    parts = {
        "zeroing buffers, adding halos and mirrors": "merging",
        "all: reading V, writing the result and the prior as well": "share",
    }
    rows = [
        {"box": row["box"], "figure": name, "share": row[key]}
        for name, key in parts.items()
        for row in record["fixed"]
    ]
    return lines + pivot(rows, "figure", "share", lambda share: f"{100 * share:.1f} %")


def epochs_section(record: dict) -> list[str]:
    """Return whole runs beside quoted ones."""
    ours, large, made = record["epoch"], record["large_epoch"], record["reconstruction"]
    quoted = record["quoted"]
    theirs, gpu = quoted["epoch"], quoted["published_gpu"]
    whole = large["seconds"] * gpu["images"] / large["images"]
    epochs = [
        ["fastcryo", f"{ours['seconds']:.2f}", f"{ours['peak_mb']:.0f}"],
        [f"{theirs['program']} (quoted)", f"{theirs['seconds']}", f"{theirs['peak_mb']}"],
    ]
    made_in = {
        "`fastcryo.reconstruct`: half-maps, map, FSC, report": made["seconds"],
        "`fastcryo reconstruct` as a command, start-up included": made["command_seconds"],
    }
    runs = [[name, f"{seconds:.1f}"] for name, seconds in made_in.items()]
    runs += [[f"{q['program']} (quoted)", f"{q['seconds']}"] for q in quoted["reconstructions"]]
    return [
        f"One epoch of Algorithm 1 (probe, gradient, line search, loss), {ours['images']} images, "
        f"N = {ours['box']}, batches of {ours['batch']}; peak memory of the whole process:",
        "",
        *markdown(["program", "seconds", "peak, MB"], epochs),
        "",
        f"{times(theirs['seconds'] / ours['seconds'])} as fast, with "
        f"{theirs['peak_mb'] / ours['peak_mb']:.1f} times less memory, of which "
        f"{ours['peak_mb_after_import']:.0f} MB are the interpreter and its libraries.",
        "",
        f"The same at N = {large['box']}: {large['seconds']:.2f} s for {large['images']} images, "
        f"so {whole:.0f} s for {gpu['images']}; the published run took {gpu['seconds']} s an epoch "
        "on a data-centre GPU.",
        "",
        f"Reconstruction of {made['images']} images, N = {made['box']}:",
        "",
        *markdown(["program", "seconds"], runs),
        "",
        f"Quoted: {quoted['source']}.",
    ]
