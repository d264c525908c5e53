"""Runs somebody else's program as a Task: Debian's source-extractor, on the Hubble eXtreme Deep Field.

    apt-get install source-extractor
    theorbo run examples/source_extractor/source_extractor.py:SourceExtractor

Before: the picture that comes with scikit-image is written as FITS. Then the program runs, with a list of
arguments and the settings that lie beside this file; its warnings are reported as they come, since it
inherits stdout and stderr. After: its catalogue, a text, is parsed into an array.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from theorbo.task_runtime import Task, result

if TYPE_CHECKING:
    import numpy as np

HERE = Path(__file__).parent


class SourceExtractor(Task):
    """Find the sources in a picture with source-extractor (Bertin & Arnouts 1996)."""

    class Parameters(BaseModel):
        """What can be set by `-c CONFIG`."""

        threshold: float = Field(3.0, gt=0.0)
        """In units of the noise of the sky."""
        program: str = "source-extractor"
        """Its name on PATH, or where it is."""

    def _pre_run(self) -> None:
        program = shutil.which(self.parameters.program)
        if program is None:
            raise FileNotFoundError(
                f"there is no program {self.parameters.program!r} on PATH; on Debian: apt-get install source-extractor"
            )
        self._program = program
        self._directory = tempfile.TemporaryDirectory(prefix="source-extractor-")
        self._picture = Path(self._directory.name) / "hubble.fits"
        self._catalogue = Path(self._directory.name) / "hubble.cat"
        write_picture(self._picture)

    def _run(self) -> None:
        subprocess.run(
            [
                self._program, str(self._picture),
                "-c", str(HERE / "hubble.sex"),
                "-PARAMETERS_NAME", str(HERE / "hubble.param"),
                "-FILTER_NAME", str(HERE / "gauss_2.0_3x3.conv"),
                "-CATALOG_NAME", str(self._catalogue),
                "-DETECT_THRESH", str(self.parameters.threshold),
                "-ANALYSIS_THRESH", str(self.parameters.threshold),
            ],
            check=True,
        )  # fmt: skip

    def _post_run(self) -> None:
        catalogue = read_catalogue(self._catalogue)
        result({"count": len(catalogue), "catalogue": catalogue}, summary=f"{len(catalogue)} sources")
        self._directory.cleanup()


def write_picture(path: Path) -> None:
    """The Hubble eXtreme Deep Field in grey as FITS, whose first row is the lowest of the picture."""
    from astropy.io import fits
    from skimage import color, data

    grey = color.rgb2gray(data.hubble_deep_field())
    fits.writeto(path, grey[::-1].astype("f4"))


def read_catalogue(path: Path) -> np.ndarray:
    """The catalogue with named columns.

    The program writes a line `#  2 X_IMAGE  …` for each column, and then the numbers.
    """
    import numpy as np

    lines = path.read_text().splitlines()
    columns = [line.split()[2].lower() for line in lines if line.startswith("#")]
    rows = [tuple(map(float, line.split())) for line in lines if not line.startswith("#")]
    return np.array(rows, dtype=[(column, "f8") for column in columns])


if __name__ == "__main__":
    SourceExtractor().run()
