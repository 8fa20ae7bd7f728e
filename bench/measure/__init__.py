"""What the benchmarks share: cases, counts, ceilings of the machine, records and tables."""
