"""Drumfire's load generator: MLPerf traffic as data, issued exactly and measured exactly.

Independent of models, frameworks, servers and screens.
"""
