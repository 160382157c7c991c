from tests.support.own_processes import impatient, own

__all__ = ["impatient", "own"]
