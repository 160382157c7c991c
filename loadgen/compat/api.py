"""MLPerf Inference load generator: the module ``mlperf_loadgen``, on Drumfire's engine.

Its public names are those of the reference's Python module 6.0, and no others.
"""

from loadgen.compat.completion import FirstTokenComplete, QuerySamplesComplete
from loadgen.compat.enumerations import LoggingMode, TestMode, TestScenario
from loadgen.compat.handles import (
    ConstructFastSUT,
    ConstructQDL,
    ConstructQSL,
    ConstructSUT,
    DestroyFastSUT,
    DestroyQDL,
    DestroyQSL,
    DestroySUT,
)
from loadgen.compat.samples import QuerySample, QuerySampleResponse, VectorQuerySample, VectorQuerySampleResponse
from loadgen.compat.settings import LogOutputSettings, LogSettings, TestSettings
from loadgen.compat.start import StartTest, StartTestWithLogSettings

__all__ = [
    "ConstructFastSUT",
    "ConstructQDL",
    "ConstructQSL",
    "ConstructSUT",
    "DestroyFastSUT",
    "DestroyQDL",
    "DestroyQSL",
    "DestroySUT",
    "FirstTokenComplete",
    "LogOutputSettings",
    "LogSettings",
    "LoggingMode",
    "QuerySample",
    "QuerySampleResponse",
    "QuerySamplesComplete",
    "StartTest",
    "StartTestWithLogSettings",
    "TestMode",
    "TestScenario",
    "TestSettings",
    "VectorQuerySample",
    "VectorQuerySampleResponse",
]
