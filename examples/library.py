"""Measure on data of your own: a library that reads a file, a timed run, and an accuracy run that judges every answer.

The file holds points with labels; the system says on which side of a line each point lies.

    python examples/library.py [SECONDS]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from drumfire import CoroutineSystem, Mode, Scenario, Test, TestSettings, run_on_fast_loop

TOTAL, IN_MEMORY = 2000, 256


class Points:
    """A sample library: it says how many samples there are and how many fit in memory, loads some and hands them out.

    Where the samples are arrays of one shape each, ``drumfire.ArrayLibrary`` does all of this, and faster.
    """

    name = "points"
    total_count = TOTAL
    performance_count = IN_MEMORY

    def __init__(self, file: Path) -> None:
        self._file = np.load(file, mmap_mode="r")  # shape (n, 2)
        self._loaded: dict[int, np.ndarray] = {}

    def load(self, indices: np.ndarray) -> None:
        """Called before the clock starts."""
        for index in indices.tolist():
            self._loaded[index] = np.array(self._file[index])

    def unload(self, indices: np.ndarray) -> None:
        for index in indices.tolist():
            self._loaded.pop(index, None)  # an index may come twice

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Called while the clock runs: loaded samples, shape (len(indices), 2); or several such arrays by name."""
        return np.stack([self._loaded[index] for index in indices.tolist()])


async def infer(batch: np.ndarray) -> np.ndarray:
    """One row of the answer for each sample; its bytes are what is logged."""
    return (batch.sum(axis=1) > 0).astype(np.uint8)[:, None]


def run(library: Points, mode: Mode, seconds: float) -> Test:
    system = CoroutineSystem("side of a line", infer, library, max_batch_size=32)
    settings = TestSettings(
        scenario=Scenario.Server, mode=mode, server_target_qps=4000, min_duration_ms=round(seconds * 1000)
    )
    test = Test(system, library, settings)
    run_on_fast_loop(test.run())
    return test


def main(seconds: float) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npy"
        points = np.random.default_rng(0).normal(size=(TOTAL, 2)).astype(np.float32)
        labels = points[:, 0] + points[:, 1] > 0
        np.save(file, points)
        library = Points(file)

        accuracy = run(library, Mode.AccuracyOnly, seconds)
        # All answers of an accuracy run are kept, with the rows of the table that they belong to.
        right = 0
        for kept in accuracy.answers.kept:
            indices = accuracy.record.sample_index[kept.rows]
            right += int((np.asarray(kept.responses)[:, 0] == labels[indices]).sum())
        print(f"accuracy: {right} of {TOTAL}")

        performance = run(library, Mode.PerformanceOnly, seconds)
        results = performance.results()
        print("Result is :", "VALID" if results.valid else "INVALID", *results.reasons)
        print(f"{results.rates['completed_samples_per_sec']:,.0f} samples a second")
        return results.valid and right == TOTAL


if __name__ == "__main__":
    sys.exit(0 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0) else 1)
