"""The version of Drumfire, defined only here."""

VERSION = "0.1.0"
