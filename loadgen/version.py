"""The version of Drumfire, the one place where it stands."""

VERSION = "0.1.0"
