"""Architectures in plain torch, so that each can be built without a download.

Modules with forward passes and fixed shapes; they do not depend on files, data or accuracy.  Importing this package
imports nothing; importing one of its modules imports torch.
"""
