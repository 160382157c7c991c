"""The registry of benchmarks: one line each."""

from __future__ import annotations

from drumfire.training import maskrcnn, shapes

TASKS = {task.name: task for task in (maskrcnn.TASK, shapes.TASK)}
