"""Several runs in an order: ``drumfire ab`` and ``drumfire sweep``."""
