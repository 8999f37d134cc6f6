"""A prefix cache without a model: which tokens of a trace it would reuse, in how much memory."""
