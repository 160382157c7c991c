"""The search for the highest load that is VALID."""
