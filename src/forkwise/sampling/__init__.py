"""Drawing completions, and verifying them: what a user may choose."""
