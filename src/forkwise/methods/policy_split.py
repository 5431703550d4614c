"""Policy Split, arXiv 2604.11510: one model with two modes, of which a second prompt makes one explore.

Formula as in the authors' code (BITHLP/PolicySplit). Its constants are published nowhere, and neither is a text that
would have to be used: all must be given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from forkwise.errors import InputError
from forkwise.methods.base import Tokens, check_range, given, wide
from forkwise.methods.two_prompts import Prompt, TwoPromptMethod

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation
_UNSET = -1.0


@dataclass(frozen=True)
class PolicySplit(TwoPromptMethod):
    """The advantages, and in the second mode a bonus on tokens that are unlikely there, or in the first one.

    Half of a prompt's completions are drawn under a second prompt, which begins with a text of yours; all are learned
    under both. `E = mix u + (1 - mix) u'`, u the surprise of a token under the completion's own prompt and u' under the
    other, is standardised over the tokens of a prompt's completions in one mode. In the second mode `eta z(E)` is
    added, in the first `normal z(E)` is taken away, neither beyond `|A| / cap`.

    Args:
        eta: weight in the second mode, above 0; must be given.
        mix: of the own prompt's surprise, in [0, 1]; must be given.
        cap: what bounds the term: above 1, so that no advantage changes its sign; or 0 for no bound; must be given.
        prompt: a file with the text; must be given.
        normal: weight in the first mode, at least 0.
    """

    eta: float = _UNSET
    mix: float = _UNSET
    cap: float = _UNSET
    prompt: str = "?"
    normal: float = 0.0

    name = "policy_split"
    title = "Policy Split: a normal and a high-entropy mode of one policy (arXiv 2604.11510)"
    paper = "2604.11510"
    formula = "A + clip(eta z(-mix ln pi_old - (1 - mix) ln pi_old under the other prompt), +-|A|/cap)"
    required: ClassVar[tuple[str, ...]] = ("eta", "mix", "cap", "prompt")

    def __post_init__(self) -> None:
        if self.eta != _UNSET:
            check_range(self, "eta", 0, float("inf"), open_low=True)
        if self.mix != _UNSET:
            check_range(self, "mix", 0, 1)
        if self.cap not in (_UNSET, 0):
            check_range(self, "cap", 1, float("inf"), open_low=True)
        check_range(self, "normal", 0, float("inf"))

    def check_given(self) -> None:
        """Refuses what is not given, and a file without a text."""
        super().check_given()
        self._text()

    def outside(self) -> str:
        """Returns the text."""
        return self._text()

    def _text(self) -> str:
        try:
            text = Path(self.prompt).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The text of the method 'policy_split' cannot be read: {error}.") from error
        if not text:
            raise InputError(f"The file '{self.prompt}' of the method 'policy_split' is empty: write the text into it.")
        return text

    def second(self, prompt: Prompt) -> Prompt:
        """Puts the text before the prompt: as a message of the system, or at the beginning of its own."""
        text = self._text()
        if isinstance(prompt, str):
            return f"{text}\n\n{prompt}"
        if prompt and prompt[0].get("role") == "system":
            return [{**prompt[0], "content": f"{text}\n\n{prompt[0]['content']}"}, *prompt[1:]]
        return [{"role": "system", "content": text}, *prompt]

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the term, `(B, T)`."""
        import torch

        surprisal, other = (-wide(given(x)) for x in (tokens.old_logprobs, tokens.other_logprobs))
        surprise, mask, second = self.mix * surprisal + (1 - self.mix) * other, tokens.mask, given(tokens.second)
        z = torch.zeros_like(surprise)
        groups = given(tokens.groups)
        for group in groups.unique():
            for mode in (False, True):
                inside = mask & ((groups == group) & (second == mode))[:, None]
                if int(inside.sum()) > 1:
                    values = surprise[inside]
                    z[inside] = (values - values.mean()) / (values.std() + EPS)
        a = wide(tokens.advantages)
        term = torch.where(second[:, None], self.eta * z, -self.normal * z)
        if self.cap:
            bound = a.abs() / self.cap
            term = term.clamp(min=-bound, max=bound)
        return torch.where(mask, a + term, a)
