"""This room draws completions and verifies them."""
