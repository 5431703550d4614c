"""Training runs: TRL's trainers with our method, a task or dataset, and rewards that verify."""
