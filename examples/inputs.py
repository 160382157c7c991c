"""Measure a system of several inputs: samples are arrays by name, in the library and in the coroutine.

The samples are sentences of token ids with a mask, padded to one length.  The system averages a vector for each token.

    python examples/inputs.py [SECONDS]
"""

import sys

import numpy as np

from drumfire import ArrayLibrary, CoroutineSystem, Scenario, Test, TestSettings, run_on_fast_loop

SENTENCES, LONGEST, VOCABULARY, WIDTH = 1000, 32, 5000, 64

_draws = np.random.default_rng(0)
VECTORS = _draws.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
LENGTHS = _draws.integers(4, LONGEST + 1, SENTENCES)
MASK = (np.arange(LONGEST) < LENGTHS[:, None]).astype(np.int64)
IDS = _draws.integers(1, VOCABULARY, (SENTENCES, LONGEST)) * MASK


def read(indices: np.ndarray) -> dict[str, np.ndarray]:
    """Called before the clock starts: an array for each input, with a row for each index."""
    return {"input_ids": IDS[indices], "attention_mask": MASK[indices]}


library = ArrayLibrary("sentences", read, total_count=SENTENCES, performance_count=256)


async def infer(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Both arrays have shape (n, 32); the answer has shape (n, 64)."""
    mask = batch["attention_mask"].astype(np.float32)
    summed = np.einsum("nt,ntw->nw", mask, VECTORS[batch["input_ids"]])
    return summed / mask.sum(axis=1, keepdims=True)


def main(seconds: float) -> bool:
    system = CoroutineSystem("mean of vectors", infer, library, max_batch_size=8)
    settings = TestSettings(
        scenario=Scenario.Server,
        server_target_qps=2000,
        server_target_latency_ns=100_000_000,  # 100 ms, for 99 % of the queries
        min_duration_ms=round(seconds * 1000),
    )
    test = Test(system, library, settings)
    run_on_fast_loop(test.run())
    results = test.results()
    print("Result is :", "VALID" if results.valid else "INVALID", *results.reasons)
    print(f"{results.rates['completed_samples_per_sec']:,.0f} sentences a second")
    return results.valid


if __name__ == "__main__":
    sys.exit(0 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0) else 1)
