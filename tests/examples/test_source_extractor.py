"""examples/source_extractor: somebody else's program, its input written before, its output parsed after."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "source_extractor" / "source_extractor.py"
SPEC = f"{FILE}:SourceExtractor"


@pytest.fixture
def program():
    """The real program; on a machine of our own its absence is an error."""
    if not shutil.which("source-extractor"):
        pytest.skip("source-extractor is not on PATH: apt-get install source-extractor")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("source_extractor_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_written_the_right_way_up(example, tmp_path):
    from astropy.io import fits
    from skimage import data

    example.write_picture(tmp_path / "hubble.fits")
    with fits.open(tmp_path / "hubble.fits") as units:
        assert units[0].data.shape == (872, 1000)
        brightness = units[0].data
        assert brightness[0, 0] == pytest.approx(data.hubble_deep_field()[-1, 0].mean() / 255, abs=0.1)
        assert 0 <= brightness.min() < brightness.max() <= 1


def test_a_catalogue_is_parsed_by_the_names_of_its_columns(example, tmp_path):
    path = tmp_path / "some.cat"
    path.write_text(
        "#   1 NUMBER                 Running object number\n"
        "#   2 X_IMAGE                Object position along x                    [pixel]\n"
        "#   3 FLUX_AUTO              Flux within a Kron-like elliptical aperture [count]\n"
        "         1   748.6342     12.68403\n"
        "         2   1.000e+1       -0.5\n"
    )
    catalogue = example.read_catalogue(path)
    assert catalogue.dtype.names == ("number", "x_image", "flux_auto")
    assert catalogue.tolist() == [(1.0, 748.6342, 12.68403), (2.0, 10.0, -0.5)]


def test_a_catalogue_without_a_source_is_empty(example, tmp_path):
    path = tmp_path / "empty.cat"
    path.write_text("#   1 NUMBER                 Running object number\n")
    assert len(example.read_catalogue(path)) == 0


def test_it_runs_by_hand_without_a_bus_and_prints(program):
    done = subprocess.run(
        [sys.executable, "-m", "theorbo.task_runtime.main", SPEC], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "1894 sources" in done.stdout + done.stderr


def test_on_the_bus_its_catalogue_is_the_result(program, run_theorbo):
    done = run_theorbo("run", "SourceExtractor", "--tasks", str(ROOT / "examples" / "tasks.py"), "--json", timeout=60)
    assert done.returncode == 0, done.stderr
    [result] = [event for event in map(json.loads, done.stdout.splitlines()) if event["kind"] == "result"]
    assert result["summary"] == "1894 sources"
    assert [part["name"] for part in result["parts"]] == ["count", "catalogue"]


def test_a_missing_program_is_told_with_the_way_out(run_theorbo):
    done = run_theorbo("run", SPEC, "-p", "program=sauce-extractor", "--json", timeout=60)
    assert done.returncode == 1
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["state"] == "FAILED"
    assert "no program 'sauce-extractor' on PATH; on Debian: apt-get install source-extractor" in outcome["reason"]


def test_a_program_that_fails_fails_the_task(run_theorbo):
    done = run_theorbo("run", SPEC, "-p", "program=/bin/false", "--json", timeout=60)
    assert done.returncode == 1
    assert "exit status 1" in json.loads(done.stdout.splitlines()[-1])["reason"]
