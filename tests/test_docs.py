"""Every line of shell and Python in the documentation runs, and the pages know each other."""

import re
import shlex
from pathlib import Path

import pytest

from fastcryo.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "set"
    assert main(f"simulate {folder} --box 32 --count 120 --snr 1 --angpix 3".split()) == 0
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_code_of_a_page_runs_from_top_to_bottom(page, particles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A file of that name in two places would be refused.
    if any(re.search(r"[ \"]particles\.star", text) for _, text in blocks(page)):
        for path in particles.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    names = {}
    for language, text in blocks(page):
        assert language in ("sh", "python"), f"{page.name}: {language} code is not run"
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "fastcryo", f"{page.name}: {line!r} is not run"
                assert main(words[1:]) == 0, line


def test_all_pages_are_in_the_table_of_contents_and_all_of_it_exists():
    listed = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == [p.name for p in PAGES]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=str)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text):
        if not link.startswith(("http:", "https:")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
