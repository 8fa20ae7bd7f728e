"""Compiled code only: functions of arrays; no classes, no files, no options.

Layout, origin and normalisation of the arrays are explained once, in `fastcryo.kernels.layout`.
"""
