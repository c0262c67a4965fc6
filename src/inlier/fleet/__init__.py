"""Many parts: the verbs of the command line as idempotent tasks, on one machine, on many by shards, or on Ray."""
