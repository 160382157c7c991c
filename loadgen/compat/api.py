"""MLPerf Inference load generator: the module ``mlperf_loadgen``, on Drumfire's engine.

Its public names are exactly those of the reference's Python module 6.0.
"""

from drumfire.loadgen.compat.completion import FirstTokenComplete, QuerySamplesComplete
from drumfire.loadgen.compat.enumerations import LoggingMode, TestMode, TestScenario
from drumfire.loadgen.compat.handles import (
    ConstructFastSUT,
    ConstructQDL,
    ConstructQSL,
    ConstructSUT,
    DestroyFastSUT,
    DestroyQDL,
    DestroyQSL,
    DestroySUT,
)
from drumfire.loadgen.compat.samples import (
    QuerySample,
    QuerySampleResponse,
    VectorQuerySample,
    VectorQuerySampleResponse,
)
from drumfire.loadgen.compat.settings import LogOutputSettings, LogSettings, TestSettings
from drumfire.loadgen.compat.start import StartTest, StartTestWithLogSettings

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
