"""Measure a system of your own: a coroutine that takes a batch of samples and returns one answer for each.

The system here is a small TCP server.  Put your own client in ``infer``, and your own data in ``library``.

    python examples/coroutine.py [SECONDS]
"""

import asyncio
import sys

import numpy as np

from drumfire import ArrayLibrary, CoroutineSystem, Scenario, Test, TestSettings, run_on_fast_loop, save

SAMPLES = np.random.default_rng(0).random((500, 64), np.float32)
SAMPLE_BYTES = SAMPLES[0].nbytes

# 500 samples, all of which fit in memory.  Drumfire loads them before the run and hands them out in batches.
library = ArrayLibrary("numbers", lambda indices: SAMPLES[indices], total_count=500, performance_count=500)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server: reads one sample after the other, answers each with the position of its largest number."""
    try:
        while True:
            sample = np.frombuffer(await reader.readexactly(SAMPLE_BYTES), np.float32)
            writer.write(bytes([sample.argmax()]))
    except asyncio.IncompleteReadError:
        pass  # the client has closed the connection
    finally:
        writer.close()


async def main(seconds: float) -> bool:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def infer(batch: np.ndarray) -> list[bytes]:
        """``batch`` has shape (n, 64); the answer is one item of bytes for each of its n samples."""
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(batch.tobytes())
        answer = await reader.readexactly(len(batch))
        idle.append((reader, writer))
        return [answer[i : i + 1] for i in range(len(batch))]

    system = CoroutineSystem("my server", infer, library, max_batch_size=8, max_in_flight=16)
    settings = TestSettings(
        scenario=Scenario.Server,
        server_target_qps=1000,
        server_target_latency_ns=200_000_000,  # 200 ms, for 99 % of the queries
        min_duration_ms=round(seconds * 1000),
    )
    test = Test(system, library, settings)
    await test.run()
    for _, writer in idle:
        writer.close()
    server.close()
    run = save(test)  # in a new folder in ./runs, which drumfire.load and drumfire show open again
    print(run.report)  # the verdict with its reasons, such as an exception in infer, and then the figures
    return run.valid


if __name__ == "__main__":
    valid = run_on_fast_loop(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
    sys.exit(0 if valid else 1)
