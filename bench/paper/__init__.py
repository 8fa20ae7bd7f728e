"""The experiments of Toader, Brubaker & Lederman (2025): ``python -m bench.paper --help``.

Run it from the root of the repository. Every experiment is a module with

``TITLE`` : what it shows;
``SIZES`` : its settings, a frozen dataclass for each of quick, laptop and full;
``FIGURE`` : width and height of its picture, inches;
``measure(settings, say)`` : its numbers, a dict that JSON can hold, with what they were measured on
    under "data", and the seconds that it takes if run alone;
``table(results)`` : header and rows of the CSV;
``draw(figure, results)`` : the picture, of numbers as they come back from JSON;
``markdown(record)`` : its section of docs/paper.md.
"""
