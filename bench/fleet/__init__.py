"""A run by several load generators, as processes on this host or on several hosts, merged into a single result."""
