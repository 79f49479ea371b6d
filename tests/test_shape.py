"""What scripts/shape.py prints, and that it counts right."""

import subprocess
import sys

from conftest import ROOT

SCRIPT = ROOT / "scripts" / "shape.py"


def shape(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_package_has_a_shape():
    assert shape().splitlines()[1].startswith("tileconv ")


def test_circles_and_bodies_are_counted(tmp_path):
    package = tmp_path / "house"
    (package / "attic").mkdir(parents=True)
    (package / "a.py").write_text("from house.attic import b\n\n\ndef f():\n    return b\n")
    (package / "attic" / "b.py").write_text(
        "if TYPE_CHECKING:\n    from house.a import f\n\nONE, TWO = range(2)\n\n\n"
        "def g(a, b, c, d, e, f, g, h, i):\n"
        '    """Nine."""\n    x = a\n    return x\n'
    )
    lines = [line.split() for line in shape(package).splitlines()]
    assert lines[1] == ["house", "2", "15", "2", "2", "2"]
    assert lines[4:6] == [["import", "circles:", "1"], ["a", "<->", "attic.b"]]
    assert lines[6][-1] == "1"
    assert lines[7] == ["attic.b.g"]
    assert lines[-1] == ["attic.b:4"]
