"""examples/galaxies: real input, MPI ranks, progress, a catalogue and a figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GALAXIES = ROOT / "examples" / "galaxies"
SPEC = f"{GALAXIES / 'galaxies.py'}:Galaxies"
MPIEXEC = Path(sys.executable).parent / "mpiexec"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

SEARCH = """
import sys
import numpy
from mpi4py import MPI
from galaxies import Galaxies, load_image

catalogue = Galaxies({"tile": int(sys.argv[2])}).search(load_image(), MPI.COMM_WORLD)
if catalogue is not None:
    numpy.save(sys.argv[1], catalogue)
"""

CONNECTIONS = """
import sys
asked = []
watched = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, arguments: asked.append(event) if event in watched else None)
import galaxies
print(galaxies.load_image().shape, asked)
"""


def run_python(program, *arguments, ranks=1):
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=GALAXIES, env=ONE_THREAD, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def catalogue_of(tmp_path_factory):
    known = {}

    def search(ranks, tile):
        if (ranks, tile) not in known:
            path = tmp_path_factory.mktemp("catalogue") / "catalogue.npy"
            run_python(SEARCH, str(path), str(tile), ranks=ranks)
            known[ranks, tile] = np.load(path, allow_pickle=False)
        return known[ranks, tile]

    return search


def test_the_catalogue_has_a_row_for_each_galaxy_brightest_first(catalogue_of):
    catalogue = catalogue_of(1, 128)
    assert catalogue.dtype.names == ("x", "y", "radius", "flux")
    assert 1000 < len(catalogue) < 1500
    assert (catalogue["x"] >= 0).all()
    assert (catalogue["x"] < 1000).all()
    assert (catalogue["y"] >= 0).all()
    assert (catalogue["y"] < 872).all()
    assert (np.diff(catalogue["flux"]) <= 0).all()
    assert (catalogue["flux"] > 0).all()


def test_the_brightest_is_the_large_galaxy_in_the_left_half(catalogue_of):
    brightest = catalogue_of(1, 128)[0]
    assert (abs(brightest["x"] - 123), abs(brightest["y"] - 401)) < (3, 3)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_catalogue_does_not_depend_on_the_number_of_ranks(catalogue_of, ranks):
    assert np.array_equal(catalogue_of(ranks, 128), catalogue_of(1, 128))


def test_a_galaxy_on_the_border_of_tiles_is_found_once(catalogue_of):
    assert np.array_equal(catalogue_of(1, 300), catalogue_of(1, 128))


def test_one_tile_for_three_ranks_is_no_trouble(catalogue_of):
    assert np.array_equal(catalogue_of(3, 1000), catalogue_of(1, 128))


def test_the_picture_comes_without_the_network():
    assert run_python(CONNECTIONS) == "(872, 1000) []\n"


def test_four_ranks_run_by_hand_without_a_bus_and_print():
    done = subprocess.run(
        [MPIEXEC, "-n", "4", sys.executable, "-m", "theorbo.task_runtime.main", SPEC],
        env=ONE_THREAD, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1268 galaxies" in done.stderr
    assert done.stderr.count("(100 %)") == 4


def test_the_file_itself_is_a_program_and_prints():
    done = subprocess.run([sys.executable, GALAXIES / "galaxies.py"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert "1268 galaxies" in done.stderr


def test_on_the_bus_all_ranks_report_and_the_result_can_be_saved(run_theorbo, tmp_path):
    done = run_theorbo("run", "Galaxies", "--tasks", str(ROOT / "examples" / "tasks.py"), "--json", timeout=100)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["rank"] for event in events if event["kind"] == "progress" and event["done"] == event["total"]} == {
        0, 1, 2, 3,
    }  # fmt: skip
    [result] = [event for event in events if event["kind"] == "result"]
    assert (result["rank"], result["summary"]) == (0, "1268 galaxies")
    assert {part["name"]: part["mime"] for part in result["parts"]} == {
        "count": "application/json",
        "catalogue": "application/x-npy",
        "figure": "image/png",
    }
    saved = run_theorbo("result", result["execution"], "--save", str(tmp_path / "saved"))
    assert saved.returncode == 0, saved.stderr
    [array] = (tmp_path / "saved").rglob("*.npy")
    [figure] = (tmp_path / "saved").rglob("*.png")
    assert len(np.load(array, allow_pickle=False)) == 1268
    assert 50_000 < figure.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("parameter", "words"),
    [("tile=8", "tile"), ("threshold=bright", "threshold"), ("min_sigma=40", "max_sigma"), ("tiles=64", "tile")],
)
def test_a_wrong_parameter_is_one_line_and_nothing_is_started(run_theorbo, parameter, words):
    done = run_theorbo("run", SPEC, "-p", parameter)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run_theorbo("ps", "--all", "--json").stdout == ""


def test_the_figure_in_the_documents_is_the_one_of_the_example():
    figure = ROOT / "docs" / "images" / "galaxies.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size < 300_000
