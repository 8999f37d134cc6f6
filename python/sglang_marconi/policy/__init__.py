"""What to checkpoint and what to evict: pure decisions that know neither torch nor SGLang."""
