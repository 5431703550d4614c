"""What a folder of imported samples holds: it numbers further samples, and refuses those that are there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from forkwise.errors import InputError
from forkwise.samples.importers.base import Source
from forkwise.terminal import counted


class Ledger:
    """The samples of a folder: it numbers those without a number, and refuses those that are there already."""

    def __init__(self, existing: set[tuple[str, str]], *, explicit: bool) -> None:
        self._existing = existing
        self._explicit = explicit  # the user named the run, so several files may belong to it
        self._file_of_run: dict[str, Path] = {}
        self._next: Counter[tuple[str, str]] = Counter()
        self._taken: dict[tuple[str, str], set[int]] = {}
        self._path = Path()
        self._imported: list[tuple[Path, set[str], dict[str, str]]] = []  # file, its runs, `Documents.contents`

    def start(self, path: Path) -> None:
        """Begins with a file, in the state that `restart` goes back to."""
        self._path = path
        taken = {key: set(numbers) for key, numbers in self._taken.items()}
        self._before = (dict(self._file_of_run), Counter(self._next), taken)

    def restart(self) -> None:
        """Forgets what the present file brought."""
        file_of_run, following, taken = self._before
        self._file_of_run, self._next = dict(file_of_run), Counter(following)
        self._taken = {key: set(numbers) for key, numbers in taken.items()}

    def finish(self, source: Source, runs: Iterable[str]) -> None:
        """Remembers the documents of a file that was imported."""
        self._imported.append((self._path, set(runs), source.documents.contents()))

    def check_documents(self, source: Source, runs: Iterable[str]) -> None:
        """Refuses a document that would join the samples of another file's in one run; between runs it is said."""
        contents = source.documents.contents()
        for path, theirs, other in self._imported:
            clashes = [problem for problem in contents.keys() & other.keys() if contents[problem] != other[problem]]
            if not clashes:
                continue
            if theirs & set(runs):
                raise InputError(
                    f"'{path}' and '{self._path}' have another gold answer, other options or another hash for the "
                    f"same question in {counted(len(clashes), 'problem')}, such as {min(clashes)}: give each file a "
                    "--run of its own."
                )
            source.remarks.append(
                f"{counted(len(clashes), 'problem')}, such as {min(clashes)}, with another gold answer, options or "
                f"hash than in '{path}': they pair all the same"
            )

    def number(self, run: str, problem: str, sample_id: int | None, source: Source) -> int:
        """Returns the sample's number within its problem: the file's, else the next."""
        key = (run, problem)
        first_file = self._file_of_run.setdefault(run, self._path)
        if first_file != self._path and not self._explicit and not source.names_runs:
            raise InputError(
                f"'{first_file}' and '{self._path}' would both become run '{run}': name the run with --run, "
                "in one command if they belong together and in two if not."
            )
        if key in self._existing:
            raise source.error(
                f"the folder holds samples of run '{run}' for problem {problem} already: choose another --run or --out."
            )
        if (key in self._taken) if sample_id is None else (key in self._next):
            raise source.error(
                f"some samples of problem {problem} have a sample_id and others have none: number all of them, or none."
            )
        if sample_id is None:
            self._next[key] += 1
            return self._next[key] - 1
        taken = self._taken.setdefault(key, set())
        if sample_id in taken and not source.documents.open():  # else the file is read again, with other ids
            raise source.error(f"sample {sample_id} of problem {problem} is there twice: remove one of the two.")
        taken.add(sample_id)
        return sample_id
