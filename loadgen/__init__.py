"""Drumfire's load generator: MLPerf traffic as data, issued exactly and measured exactly.

Independent of models, frameworks, servers and screens.  The names below are what programs use.
"""

from drumfire.loadgen.answers import Answers, Responses
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings
from drumfire.loadgen.system import SampleLibrary, SystemUnderTest
from drumfire.loadgen.version import VERSION

__all__ = [
    "VERSION",
    "Answers",
    "Mode",
    "Responses",
    "SampleLibrary",
    "Scenario",
    "SettingsError",
    "SystemUnderTest",
    "Test",
    "TestSettings",
    "run_on_fast_loop",
]
__version__ = VERSION
