"""Counts the galaxies in the Hubble eXtreme Deep Field, with as many MPI ranks as there are.

    theorbo run examples/galaxies/galaxies.py:Galaxies --ranks 4

The picture comes with scikit-image (`skimage.data.hubble_deep_field`), so nothing is downloaded. It is cut
into tiles, which the ranks share out; each tile is searched for blobs together with a margin that is wide
enough for the filters, and a blob belongs to the tile in which its centre lies. Hence every galaxy is found
once, and the catalogue does not depend on the number of ranks or the size of the tiles.

Without a bus it runs as well, and prints:

    python -m theorbo.task_runtime.main examples/galaxies/galaxies.py:Galaxies
    mpiexec -n 4 python -m theorbo.task_runtime.main examples/galaxies/galaxies.py:Galaxies
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, model_validator

from theorbo.task_runtime import Task, log, progress, result

if TYPE_CHECKING:
    import numpy as np

# What takes long to import is imported where it is needed, so that a mistake in the parameters is told at once.

COLUMNS = [("x", "f4"), ("y", "f4"), ("radius", "f4"), ("flux", "f4")]
"""The catalogue: centre and radius in pixels (x to the right, y down), flux above the sky, brightest first."""

RADIUS_OF_SIGMA = 2**0.5
"""Of a disc to which a Laplacian of Gaussian answers best."""


class Galaxies(Task):
    """Count galaxies as blobs of light, by the Laplacian of Gaussian over a range of widths."""

    use_mpi = True

    class Parameters(BaseModel):
        """What can be set by `-c CONFIG`; lengths are in pixels, brightness goes from 0 to 1."""

        min_sigma: float = Field(2.0, ge=1.0)
        max_sigma: float = Field(12.0, le=50.0)
        sigmas: int = Field(8, ge=2, le=50)
        threshold: float = Field(0.08, gt=0.0, lt=1.0)
        tile: int = Field(128, ge=32)

        @model_validator(mode="after")
        def _ordered(self) -> Galaxies.Parameters:
            if self.min_sigma >= self.max_sigma:
                raise ValueError(f"min_sigma {self.min_sigma} must be less than max_sigma {self.max_sigma}")
            return self

    def _run(self) -> None:
        from mpi4py import MPI

        image = load_image()
        catalogue = self.search(image, MPI.COMM_WORLD)
        if catalogue is not None:
            log(f"{len(catalogue)} galaxies in a picture of {image.shape[1]} x {image.shape[0]} pixels")
            result(
                {"count": len(catalogue), "catalogue": catalogue, "figure": draw(image, catalogue)},
                summary=f"{len(catalogue)} galaxies",
            )

    def search(self, image: np.ndarray, ranks: Any) -> np.ndarray | None:
        """The catalogue of a picture at rank 0, None elsewhere. `ranks` is an MPI communicator; all must call it."""
        mine = list(tiles(image.shape, self.parameters.tile))[ranks.rank :: ranks.size]
        found = []
        for number, (top, left) in enumerate(mine, start=1):
            found.append(self.detect(image, top, left))
            progress(number, len(mine), unit="tiles")
        rows = gather(ranks, found)
        return None if rows is None else as_catalogue(without_nested(rows))

    def detect(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        """The blobs whose centres lie in one tile: an array of rows x, y, radius, flux."""
        import numpy as np
        from skimage.feature import blob_log

        wanted = self.parameters
        margin = int(4 * wanted.max_sigma) + 2  # the filters reach four sigmas far
        y0, x0 = max(0, top - margin), max(0, left - margin)
        window = image[y0 : top + wanted.tile + margin, x0 : left + wanted.tile + margin]
        blobs = blob_log(
            window,
            min_sigma=wanted.min_sigma,
            max_sigma=wanted.max_sigma,
            num_sigma=wanted.sigmas,
            threshold=wanted.threshold,
            overlap=1.0,  # nothing is dropped here: what is nested is known only when all tiles are together
        )
        y, x, sigma = (blobs + np.array([y0, x0, 0])).T
        own = (top <= y) & (y < top + wanted.tile) & (left <= x) & (x < left + wanted.tile)
        rows = [
            (at_x, at_y, radius, flux(image, at_x, at_y, radius))
            for at_x, at_y, radius in zip(x[own], y[own], RADIUS_OF_SIGMA * sigma[own], strict=True)
        ]
        return np.array(rows).reshape(-1, len(COLUMNS))


def load_image() -> np.ndarray:
    """The Hubble eXtreme Deep Field in grey, its sky taken off; brightness goes up to 1."""
    import numpy as np
    from skimage import color, data

    grey = color.rgb2gray(data.hubble_deep_field())
    return np.clip(grey - np.median(grey), 0.0, None)


def tiles(shape: tuple[int, ...], size: int) -> Iterator[tuple[int, int]]:
    """Top and left of the tiles that cover a picture, row by row."""
    for top in range(0, shape[0], size):
        for left in range(0, shape[1], size):
            yield top, left


def flux(image: np.ndarray, x: float, y: float, radius: float) -> float:
    """The light within a circle."""
    import numpy as np

    reach = int(radius) + 1
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    window = image[top : int(y) + reach + 1, left : int(x) + reach + 1]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    return float(window[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2].sum())


def gather(ranks: Any, found: list[np.ndarray]) -> np.ndarray | None:
    """The rows of all ranks at rank 0, None elsewhere. Arrays travel as they are, without pickling."""
    import numpy as np

    mine = np.concatenate([np.empty((0, len(COLUMNS))), *found])
    sizes = np.empty(ranks.size, dtype=int) if ranks.rank == 0 else None
    ranks.Gather(np.array([mine.size]), sizes)
    if sizes is None:
        ranks.Gatherv(mine, None)
        return None
    everything = np.empty((sizes.sum() // len(COLUMNS), len(COLUMNS)))
    ranks.Gatherv(mine, (everything, sizes))
    return everything


def without_nested(rows: np.ndarray) -> np.ndarray:
    """Without the blobs whose centre lies within a larger one; of two alike the brighter stays."""
    import numpy as np
    from scipy.spatial import cKDTree

    x, y, radius, light = rows.T
    rows = rows[np.lexsort((x, y, -light, -radius))]  # the last key counts most
    places = cKDTree(rows[:, :2])
    kept = np.ones(len(rows), dtype=bool)
    for number, near in enumerate(places.query_ball_point(rows[:, :2], rows[:, 2])):
        if kept[number]:
            kept[[other for other in near if other > number]] = False
    return rows[kept]


def as_catalogue(rows: np.ndarray) -> np.ndarray:
    """The rows with named columns, brightest first."""
    import numpy as np

    return np.array([tuple(row) for row in rows[np.argsort(-rows[:, 3], kind="stable")]], dtype=COLUMNS)


def draw(image: np.ndarray, catalogue: np.ndarray) -> Any:
    """The picture as a negative, a circle around each galaxy."""
    import numpy as np
    from matplotlib.collections import EllipseCollection
    from matplotlib.figure import Figure

    height, width = image.shape
    figure = Figure(figsize=(7, 7 * height / width), dpi=90)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    axes.imshow(image, cmap="gray_r", vmin=np.percentile(image, 90), vmax=np.percentile(image, 99.5))
    diameters = 2 * catalogue["radius"]
    axes.add_collection(
        EllipseCollection(
            diameters, diameters, np.zeros(len(catalogue)), units="xy",
            offsets=np.column_stack([catalogue["x"], catalogue["y"]]), offset_transform=axes.transData,
            facecolors="none", edgecolors="tab:red", linewidths=0.8,
        )
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    Galaxies().run()
