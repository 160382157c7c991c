"""One run by several load generators: processes on this host, or on many, and the merged run they come to."""
