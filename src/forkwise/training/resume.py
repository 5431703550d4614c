"""Checkpoints that are whole or do not count, and from which a GRPO trainer continues as if nothing had happened.

TRL alone starts a new rollout in the middle of another's updates when it is resumed (its buffer is not saved), draws
the epochs' orders anew, and forgets what was measured since the last log.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import send_to_device

from forkwise.errors import InputError
from forkwise.training.folder import COMPLETE, mark_complete, writing

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

__all__ = ["ExactResumeMixin"]


class ExactResumeMixin(_Trainer):
    """Exact resuming for any `GRPOTrainer` subclass: `class Mine(ExactResumeMixin, MyGRPOTrainer)`.

    A checkpoint also holds, for each process, the part of the rollout that is still to be learned from, the place in
    the order of the prompts, and what was measured since the last log. It ends with a marker file, `complete`, that is
    written when all the rest is on the disk; `forkwise.training.folder.newest_complete_checkpoint` goes by it.

    Raises:
        InputError: resuming with another number of processes, or with other `steps_per_generation`, `num_iterations`.
        RunError: a checkpoint cannot be written (full disk, read-only folder). What was begun of it is removed.
    """

    _train_sampler: Any = None
    _unlogged: dict[str, Any] | None = None  # of the checkpoint, until the training loop has reset its own
    _running_loss: Any = None  # under transformers 4: the sum since the last log
    _loss_before: Any = None  # likewise, what of it was trained before the kill

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        main = self.is_world_process_zero()
        if main:  # what an earlier, killed run left must not be taken for the new one
            (checkpoint / COMPLETE).unlink(missing_ok=True)
        try:
            with writing(folder, f"The checkpoint of step {self.state.global_step}"):
                super()._save_checkpoint(model, trial)
                PartialState().wait_for_everyone()  # each process writes files of its own
                if main:
                    mark_complete(checkpoint)
        except Exception:
            shutil.rmtree(checkpoint, ignore_errors=True)  # after the reason has been looked for: this makes room
            raise

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Returns the trainer's log; a log that cannot be written ends in a sentence."""
        if self._unlogged is not None:  # resumed at the end of its last epoch, a run comes here before any batch
            self._take_up_unlogged()
            self.model.train()  # else TRL takes the log for one of an evaluation
        with writing(Path(self.args.output_dir), f"The log of step {self.state.global_step}"):
            super().log(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # another process may not have come so far
        every = self.args.steps_per_generation * self.num_iterations
        rollout = {
            "step": self._step,
            "epoch": self.state.epoch,
            "processes": self.accelerator.num_processes,
            "updates_per_rollout": every,
            "buffer": self._buffered_inputs if self._step % every else None,
            "extra_prompts": getattr(self, "extra_prompts", 0),
            "methods": self._method_states.snapshot() if hasattr(self, "_method_states") else None,
            "unlogged": {
                "metrics": {name: list(values) for name, values in self._metrics["train"].items()},
                "totals": self._action_log.totals if hasattr(self, "_action_log") else {},
                "loss": getattr(self, "_tr_loss", self._running_loss),
                "since": getattr(self, "_globalstep_last_logged", None),
            },
        }
        torch.save(rollout, folder / self._rollout_file())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / self._rollout_file()
        processes = self.accelerator.num_processes
        if not any(path.parent.glob("rollout_*.pt")):
            raise InputError(
                f"The checkpoint '{checkpoint}' holds a model and no training state, as save_only_model writes it: "
                "there is nothing to resume."
            )
        if not path.exists():
            raise InputError(
                f"The checkpoint '{checkpoint}' holds nothing of process {self.accelerator.process_index} of "
                f"{processes} ({path.name}); resume with as many processes as it was written by."
            )
        rollout = torch.load(path, map_location="cpu", weights_only=True)
        every = self.args.steps_per_generation * self.num_iterations
        if rollout.get("processes", processes) != processes:
            raise InputError(
                f"The checkpoint '{checkpoint}' was written by {rollout['processes']} processes and this run has "
                f"{processes}; resume with as many."
            )
        if rollout["updates_per_rollout"] != every:
            raise InputError(
                f"The checkpoint '{checkpoint}' has {rollout['updates_per_rollout']} micro-batches per rollout and "
                f"this run {every}; resume with the same steps_per_generation and num_iterations."
            )
        self._step = rollout["step"]
        self._buffered_inputs = send_to_device(rollout["buffer"], self.accelerator.device)
        self._unlogged = rollout.get("unlogged")
        self.extra_prompts = rollout.get("extra_prompts", 0)
        if rollout.get("methods"):
            self._method_states.restore(send_to_device(rollout["methods"], self.accelerator.device))
        if self._train_sampler is not None:  # a streamed dataset has none
            for _ in range(int(rollout["epoch"])):
                next(iter(self._train_sampler), None)  # TRL's sampler draws each epoch's order from one stream

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the trainer's batches of an update; none for a run that is resumed at its end.

        It would train one step too many before it looks at `max_steps`.
        """
        if self.state.global_step < self.state.max_steps:
            return super().get_batch_samples(*args, **kwargs)
        self._take_up_unlogged()
        self.control.should_training_stop = True
        return [], None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # Called once more before the first batch, when the training loop has set its counters to zero.
        super()._load_rng_state(checkpoint)
        self._take_up_unlogged()

    def _take_up_unlogged(self) -> None:
        unlogged, self._unlogged = self._unlogged, None
        if unlogged is None:
            return
        self._metrics["train"].update(unlogged["metrics"])
        totals = unlogged.get("totals")
        if totals is None:  # a checkpoint of forkwise from before they were one
            totals = {f"method/{name}": total for name, total in unlogged["methods"].items()}
            totals |= {} if unlogged["shaping"] is None else {"shaping": unlogged["shaping"]}
        if totals:
            self._action_log.totals = send_to_device(totals, self.accelerator.device)
        if unlogged["loss"] is not None:
            loss = unlogged["loss"].to(self.accelerator.device)
            if hasattr(self, "_tr_loss"):
                self._tr_loss = loss
            else:
                self._loss_before = loss
            self._globalstep_last_logged = unlogged["since"]

    def _maybe_log_save_evaluate(self, tr_loss: Any, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "_tr_loss"):  # transformers 4 has it in a local variable of the training loop only
            if self._loss_before is not None:
                tr_loss += self._loss_before
                self._loss_before = None
            self._running_loss = tr_loss
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _rollout_file(self) -> str:
        return f"rollout_{self.accelerator.process_index}.pt"

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        self._train_sampler = super()._get_train_sampler(*args, **kwargs)
        return self._train_sampler
