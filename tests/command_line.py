"""What tests of the commands share: the data set of the fixture `data`, and how a refusal looks."""

from fastcryo.cli import main

BOX, COUNT = 32, 240


def edit(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def refused(capsys, command):
    """Run a command that must fail; return its one line.

    Which backend is used is said besides, once in a process.
    """
    capsys.readouterr()
    assert main([str(word) for word in command]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if not line.startswith("fastcryo: backend auto: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    return lines[0]
