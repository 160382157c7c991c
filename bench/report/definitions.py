"""What each figure of a report is, in one line."""

from __future__ import annotations

from collections.abc import Mapping

DEFINED: Mapping[str, str] = {
    "started": "When the run began, in UTC.",
    "metric": "The scenario's one figure, by which its runs are compared.",
    "target": "The share of queries that must be answered within the bound, and what was reached.",
    "expected": "What was asked of the figures, and whether it was met.",
    "peak": "The highest load that gave a VALID result, and the lowest that did not.",
    "confidence": "Whether queries enough were within the bound to be sure of the verdict.",
    "asked": "What the settings ask for.",
    "delivered": "Samples answered well and queries issued; their rate from the first query to the last answer.",
    "latency": "From the scheduled time to the answer; pNN is the time that NN of 100 samples do not exceed.",
    "per query": "Latency of whole queries: until the last sample of each is answered.",
    "lateness": "How late the generator issued: its own fault, not the system's.",
    "sent late": "How late requests left this machine; it includes the wait for a free connection.",
    "errors": "Samples not answered well; a single one makes a run INVALID.",
    "system": "What was measured: backend, model and device.",
    "scenario": "The traffic pattern, and the mode.",
    "warm-up": "Queries before the run, which no figure counts.",
    "workers": "The processes that sent the traffic.",
    "hosts": "The hosts that sent the traffic.",
    "accuracy": "How right the answers were.",
    "computed by": "The processes in which the model ran.",
    "batch sizes": "Batches computed, by their size.",
    "sizes": "Elements of samples that differ in size.",
    "queueing": "From the issue to the begin of the computation.",
    "computing": "From the begin of the computation to the answer.",
    "server": "The server's own statistics of this run.",
    "server GPU": "The server's GPUs, as its metrics tell.",
    "generator": "What the generator itself cost, and what held it up.",
    "seeds": "The numbers from which samples and times were drawn: with them, the traffic is the same again.",
}
