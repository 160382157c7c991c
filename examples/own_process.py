"""Measure a model that is a Python function, in a process of its own: the generator shares no interpreter with it.

Put your own model in ``make``: it is called in the other process, which imports this file as a module.

    python examples/own_process.py [SECONDS]
"""

import sys

import numpy as np

from drumfire import (
    ArrayLibrary,
    BatchedSystem,
    OwnProcess,
    Scenario,
    Test,
    TestSettings,
    run_on_fast_loop,
    save,
)


def make(classes: int) -> tuple[BatchedSystem, ArrayLibrary]:
    """Loads everything, once; returns a system and the library that its samples come from."""
    random = np.random.default_rng(0)
    samples, weights = random.random((500, 64), np.float32), random.random((64, classes), np.float32)

    def infer(batch: dict[str, np.ndarray]) -> np.ndarray:
        """``batch["input"]`` has shape (n, 64); the answer has a row for each of its n samples."""
        return np.argmax(batch["input"] @ weights, axis=1)

    library = ArrayLibrary("numbers", lambda indices: samples[indices], total_count=500, performance_count=500)
    return BatchedSystem("my model", [infer], library, max_batch_size=32), library


def main(seconds: float) -> bool:
    settings = TestSettings(
        scenario=Scenario.Server,
        server_target_qps=5000,
        server_target_latency_ns=100_000_000,  # 100 ms, for 99 % of the queries
        min_duration_ms=round(seconds * 1000),
    )
    with OwnProcess("own_process:make", 10) as system:
        test = Test(system, system.library, settings)
        run_on_fast_loop(test.run())
    run = save(test)  # in a new folder in ./runs
    print(run.report)  # also says what the process took
    return run.valid


if __name__ == "__main__":
    sys.exit(not main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
