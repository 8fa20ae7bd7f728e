"""The HTML report: one well-formed file, pictures inside, nothing fetched, text escaped."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fastcryo.cli import main
from fastcryo.plots_data import view_density
from fastcryo.rotations import random_rotations
from fastcryo.symmetry import replicated, symmetry_matrices

VOID = {"meta", "img"}


class Checker(HTMLParser):
    """Collects tags and refuses elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs["src"])
        if tag == "a":
            self.links.append(attrs["href"])
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    command = f"simulate {folder}/a&<b> --box 24 --count 100 --snr 1 --angpix 4"
    assert main(command.split()) == 0
    star = f"{folder}/a&<b>/particles.star"
    out = folder / "out"
    assert (
        main(["reconstruct", star, "--out", str(out), "--mask", "auto", "--solver", "wiener"]) == 0
    )
    return out


def test_report_is_one_file_with_its_pictures(run):
    checker = Checker()
    checker.feed((run / "run_report.html").read_text())
    checker.close()
    assert checker.open == []
    assert len(checker.images) == 3
    for source in checker.images:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:4] == b"\x89PNG"
    assert all((run / link).is_file() for link in checker.links)
    assert {"run_class001.mrc", "run_class001_sharp.mrc", "run_mask.mrc"} <= set(checker.links)


def test_report_says_what_was_read_and_how_it_went(run):
    page = (run / "run_report.html").read_text()
    assert "a&<b>" not in page
    assert "a&amp;&lt;b&gt;" in page
    checker = Checker()
    checker.feed(page)
    text = " ".join(checker.text)
    for words in ("corrected FSC 0.143", "100", "particles", "Conditioning", "images cannot tell"):
        assert words in text
    assert re.search(r"Greatest over least diagonal of H, prior included: [\d.e+]+\.", text)


def test_views_are_counted_with_their_opposites():
    rotations = np.tile(np.eye(3), (6, 1, 1))
    rotations[3:] = np.diag([1.0, -1.0, -1.0])  # seen from behind
    directions, density = view_density(rotations)
    assert directions[density.argmax()] @ [0, 0, 1] > 0.99
    assert np.count_nonzero(density) == 1
    assert density.mean() == pytest.approx(1)


def test_symmetric_copies_of_views_are_counted():
    rotations = random_rotations(50, np.random.default_rng(1))
    copies = replicated(rotations, symmetry_matrices("D2")).reshape(-1, 3, 3)
    np.testing.assert_allclose(view_density(rotations, "D2")[1], view_density(copies)[1])
