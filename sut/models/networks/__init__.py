"""Architectures in plain torch, so that each can be built without a download.

Modules with forward passes and fixed shapes only: no weights' files, no data, no judging.  Importing this package costs
nothing; importing one of its modules imports torch.
"""
