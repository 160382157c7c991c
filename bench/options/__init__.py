"""Options of commands: from the words of a command line, a TOML file or keywords to dataclasses, and back."""
