"""`python -m forkwise`, which is what `accelerate launch -m forkwise grpo ...` runs."""

from forkwise.cli import main
from forkwise.processes import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
