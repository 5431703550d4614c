"""Writes the problems of studies/followers-heal.yaml: 60 stories of three events, the general domain, and 20 of four.

python benchmarks/heal_problems.py > studies/followers-heal.jsonl
"""

from __future__ import annotations

import json

from forkwise.sampling.recipe import open_task

for events, number, domain in ((3, 60, "general"), (4, 20, "target")):
    for problem in open_task(f"story:{events}", None).problems("train", number):
        print(json.dumps({"id": problem.id, "prompt": problem.prompt, "answer": problem.answer, "cluster": domain}))
