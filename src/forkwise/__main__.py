"""`python -m forkwise`, which is what `accelerate launch -m forkwise grpo ...` runs."""

from forkwise.cli import main

if __name__ == "__main__":
    main()
