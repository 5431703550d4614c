"""Verdicts on mathematical answers: right, fast where no algebra is needed, and bounded whatever the model wrote.

Every expectation is made by hand. Workers are real processes and slow answers are real slow answers.
"""

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Timer

import pytest

from forkwise.errors import InputError
from forkwise.tasks.answers import LONGEST_ANSWER, MathVerifier
from forkwise.tasks.answers import verifier as verifier_module

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)
SHARED = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SUM = r"\sum_{k=1}^{3} k"  # what the grammar of this package does not read
UNKNOWN = r"\star"  # nor math-verify, which says so at once
SLOW = r"\sum_{k=1}^{1} 9^{9^{9^{9}}}"  # math-verify works on this for as long as it is allowed to


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_dead(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "by"),
    [
        ("42", r"\boxed{042}", True, "box/integer"),
        ("-1234", r"\boxed{-1,234}", True, "box/integer"),
        ("0", r"\boxed{-0}", True, "box/integer"),
        ("1234", r"\boxed{1{,}234}", True, "box/integer"),
        ("42", r"\boxed{43}", False, "box/integer"),
        ("#### 72", "so 72.\n#### 72", True, "hash/integer"),  # a gold of GSM8K
        ("1" * 1999, r"\boxed{" + "1" * 1999 + "}", True, "box/integer"),
        ("1" * 3000, "the answer is " + "1" * 3000, True, "statement/exact"),  # too long to be parsed
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\dfrac{\pi}{2})}", True, "box/exact"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", True, "box/value"),
        ("0.5", r"<answer>\frac12</answer>", True, "tags/value"),
        ("5", "no answer here, 5", False, "no-answer"),
        ("5", r"\boxed{}", False, "no-answer"),
        ("5", "<think>it is 5, the answer is 5", False, "unfinished"),
        ("5", r"\boxed{" + "(" * 3000 + "}", False, "too-long"),
    ],
)
def test_what_needs_no_algebra_is_decided_without_a_worker(gold, completion, correct, by):
    with MathVerifier() as verifier:
        (verdict,) = verifier.verify([gold], [completion])
        assert (verdict.correct, verdict.by) == (correct, by)
        assert verifier.stats.started == 0


@needs_math_verify
@pytest.mark.parametrize("workers", [1, 2])
def test_algebra_is_done_by_workers_in_order(workers):
    golds = [SUM, "6", SUM, r"\lim_{x\to 0} x", SUM]
    answers = ["6", SUM, "7", "0", "\0\ud800("]
    with MathVerifier(workers=workers) as verifier:
        verdicts = verifier.compare(golds, answers)
        assert [verdict.correct for verdict in verdicts] == [True, True, False, True, False]
        assert {verdict.by for verdict in verdicts} == {"math-verify"}
        assert [verdict.answer for verdict in verdicts] == answers
        assert verifier.stats.started == workers


@needs_math_verify
def test_equal_pairs_are_verified_once_within_and_across_calls():
    with MathVerifier() as verifier:
        first = verifier.compare([SUM] * 50, ["6"] * 25 + ["7"] * 25)
        assert verifier.stats.requests == 2
        again = verifier.compare([SUM] * 50, ["7"] * 25 + ["6"] * 25)
        assert verifier.stats.requests == 2
        assert [v.correct for v in first] == [True] * 25 + [False] * 25
        assert [v.correct for v in again] == [False] * 25 + [True] * 25
        verifier.compare(["7"], [SUM])  # gold and prediction are not interchangeable
        assert verifier.stats.requests == 3


@needs_math_verify
def test_the_cache_forgets_what_was_used_least_recently():
    with MathVerifier(cache_size=2) as verifier:
        for answer in ["1", "2", "1", "3", "1", "2"]:  # 3 drives out 2, so 2 is asked again
            verifier.compare([SUM], [answer])
        assert verifier.stats.requests == 4


@needs_math_verify
def test_an_answer_that_overruns_is_wrong_and_its_worker_replaced():
    with MathVerifier(timeout=0.5) as verifier:
        verifier.compare([UNKNOWN], ["1"])
        (first,) = verifier.pids()
        slow, fast = verifier.compare(["0", SUM], [SLOW, "6"])  # in this order
        assert (slow.correct, slow.by, slow.answer) == (False, "timeout", SLOW)
        assert (fast.correct, fast.by) == (True, "math-verify")
        assert not is_alive(first)
        (second,) = verifier.pids()
        assert first != second
        assert (verifier.stats.started, verifier.stats.killed) == (2, 1)
        verifier.compare(["0"], [SLOW])  # remembered: an answer cannot cost its time twice
        assert verifier.stats.killed == 1


@needs_math_verify
@pytest.mark.parametrize(
    "answer",
    [
        "10!!!!",
        "(1+x)^{5000}",
        "(" * 200 + "1" + ")" * 200,
        r"\frac{" * 150 + "1" + "}{2}" * 150,
        "__import__('os').system('exit 1')",
        "\0" * 100,
    ],
)
def test_hostile_answers_are_wrong_in_bounded_time(answer):
    with MathVerifier(timeout=0.5) as verifier:
        began = time.monotonic()
        (verdict,) = verifier.compare(["7"], [answer])
        assert verdict.correct is False
        assert time.monotonic() - began < 30  # the limit, and the start of a worker on a busy machine


@pytest.mark.parametrize(
    "unit", ["(", "{", "\\", "\\boxed", "\\boxed{", "answer is ", "answer ", "answer: $", "#### $", "\ud800", "\0"]
)
def test_ten_megabytes_are_not_read_to_the_end(unit):
    with MathVerifier() as verifier:
        began = time.process_time()
        (verdict,) = verifier.verify(["7"], [unit * (10_000_000 // len(unit))])
        assert verdict.correct is False
        assert time.process_time() - began < 5  # measured: below 0.1
        assert len(verdict.answer or "") <= LONGEST_ANSWER


@needs_math_verify
def test_a_worker_that_dies_between_calls_is_replaced_unnoticed():
    with MathVerifier() as verifier:
        verifier.compare([UNKNOWN], ["1"])
        (pid,) = verifier.pids()
        os.kill(pid, signal.SIGKILL)
        assert wait_until_dead(pid, 10)
        (verdict,) = verifier.compare([SUM], ["6"])
        assert (verdict.correct, verdict.by) == (True, "math-verify")
        assert verifier.stats.started == 2


@needs_math_verify
@pytest.mark.skipif(sys.platform != "linux", reason="reads processor time from /proc")
def test_a_worker_that_got_no_processor_time_is_waited_for():
    with MathVerifier(timeout=0.5) as verifier:
        verifier.compare([UNKNOWN], ["1"])
        (pid,) = verifier.pids()
        os.kill(pid, signal.SIGSTOP)  # as on a machine that is busy with something else
        Timer(1.2, os.kill, (pid, signal.SIGCONT)).start()
        (verdict,) = verifier.compare([SUM], ["6"])
        assert (verdict.correct, verdict.by) == (True, "math-verify")
        assert verifier.pids() == [pid]
        os.kill(pid, signal.SIGSTOP)  # but not for ever: ten times the limit
        start = time.monotonic()
        assert verifier.compare([SUM], ["8"])[0].by == "timeout"
        assert 5 <= time.monotonic() - start < 20


@needs_math_verify
@pytest.mark.skipif(sys.platform != "linux", reason="reads the limits of a process from /proc")
def test_a_worker_has_a_limit_on_memory_and_on_processor_time():
    with MathVerifier(memory_mb=600) as verifier:
        verifier.compare([UNKNOWN], ["1"])
        (pid,) = verifier.pids()
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        limit = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert limit["Max address space"] == str(600 * 2**20)
    assert int(limit["Max cpu time"]) < 120  # a worker whose caller is killed during a request ends by itself


def test_too_little_memory_to_start_is_said_in_a_sentence():
    with MathVerifier(memory_mb=16) as verifier, pytest.raises(InputError, match="math worker did not start"):
        verifier.compare([UNKNOWN], ["1"])


@needs_math_verify
def test_an_alarm_of_the_caller_neither_reaches_the_worker_nor_is_cancelled():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with MathVerifier(timeout=1.0) as verifier:
            slow, fast = verifier.compare(["1", SUM], [SLOW, "6"])
        assert (slow.by, fast.correct) == ("timeout", True)
        assert len(rang) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_math_verify
def test_an_interrupted_call_leaves_no_worker_with_a_stale_request():
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with MathVerifier(timeout=60) as verifier:
            verifier.compare([UNKNOWN], ["1"])
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Alarm):
                verifier.compare(["1"], [SLOW])
            assert verifier.pids() == []
            assert [v.correct for v in verifier.compare([SUM, SUM], ["6", "7"])] == [True, False]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


BUSY = f"threading.Thread(target=verifier.compare, args=(['1'], [r'{SLOW}']), daemon=True).start(); time.sleep(0.5)"


@needs_math_verify
@pytest.mark.parametrize("ending", ["pass", BUSY, "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 2)"])
def test_no_worker_outlives_its_caller(ending):
    # The script has no `if __name__ == "__main__"`: workers must not import it.
    script = f"""
        import os, threading, time
        from forkwise.tasks.answers import MathVerifier
        verifier = MathVerifier(timeout=60)
        assert verifier.compare([r"\\sum_{{k=1}}^{{3}} k"], ["6"])[0].correct
        print(*verifier.pids(), flush=True)
        {ending}
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    (pid,) = map(int, done.stdout.split())
    assert wait_until_dead(pid, 10)


@needs_math_verify
def test_the_exit_of_a_forked_child_leaves_the_workers_of_its_parent_alone():
    script = """
        import os, sys
        from forkwise.tasks.answers import MathVerifier
        verifier = MathVerifier()
        verifier.compare(["\\sum_{k=1}^{3} k"], ["1"])
        pids = verifier.pids()
        child = os.fork()
        if child == 0:
            assert verifier.compare(["\\sum_{k=1}^{3} k"], ["6"])[0].correct
            assert verifier.pids() != pids
            sys.exit(0)  # runs the exit handlers
        assert os.waitpid(child, 0)[1] == 0
        assert verifier.compare(["\\sum_{k=1}^{3} k"], ["6"])[0].correct
        assert verifier.pids() == pids and verifier.stats.started == 1
        print("ok")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "ok\n", done.stderr


@needs_math_verify
def test_verification_works_in_a_thread():
    from concurrent.futures import ThreadPoolExecutor

    with MathVerifier() as verifier, ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda a: verifier.compare([SUM], [a])[0], ["6", "7"] * 4))
    assert [verdict.correct for verdict in verdicts] == [True, False] * 4


def test_without_math_verify_integers_still_work_and_the_rest_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with MathVerifier() as verifier:
        assert verifier.compare(["42"], ["43"])[0].by == "integer"
        assert verifier.compare(["1/2"], ["0.5"])[0].by == "value"
        with pytest.raises(InputError, match=r'pip install "forkwise\[math\]"'):
            verifier.compare([SUM], ["6"])


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="not 1 for 2"):
        MathVerifier().compare(["1"], ["1", "2"])
    with pytest.raises(InputError, match="workers"):
        MathVerifier(workers=0)
    with pytest.raises(InputError, match="timeout"):
        MathVerifier(timeout=0)


def test_tasks_import_nothing_heavy():
    script = """
        import sys
        import forkwise.tasks, forkwise.tasks.answers, forkwise.tasks.math, forkwise.tasks.reasoning_gym
        print(sorted({"torch", "datasets", "math_verify", "sympy", "reasoning_gym", "pyarrow"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def math500() -> list[dict[str, str]]:
    path = SHARED / "bench" / "math500_test.jsonl"
    if not path.exists():
        pytest.skip("MATH-500 is not here; set FORKWISE_SHARED_DATA to the folder that holds bench/math500_test.jsonl")
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_every_gold_of_math500_equals_its_own_solution():
    rows = math500()
    with MathVerifier() as verifier:
        verdicts = verifier.verify([row["answer"] for row in rows], [row["solution"] for row in rows])
    assert sum(verdict.correct is True for verdict in verdicts) == len(rows) == 500


@needs_math_verify
def test_algebra_agrees_with_math500_when_it_decides_alone(monkeypatch):
    rows = [row for row in math500() if not row["answer"].isdigit()][:60]
    monkeypatch.setattr(verifier_module, "compare_exactly", lambda gold, answer: None)
    monkeypatch.setattr(verifier_module, "compare_by_value", lambda gold, answer: None)
    with MathVerifier() as verifier:
        verdicts = verifier.verify([row["answer"] for row in rows], [row["solution"] for row in rows])
    assert [verdict.by for verdict in verdicts] == ["box/math-verify"] * 60
    assert all(verdict.correct for verdict in verdicts)


@needs_math_verify
def test_verdicts_agree_with_those_that_qwen_published():
    path = SHARED / "samples" / "qwen25math_math100x8_scored.jsonl.gz"
    if not path.exists():
        pytest.skip("the scored samples are not here; set FORKWISE_SHARED_DATA to the folder that holds samples/")
    golds, completions, theirs = [], [], []
    for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]:
        row = json.loads(line)
        golds += [row["answer"]] * len(row["code"])
        completions += row["code"]
        theirs += row["score"]
    with MathVerifier() as verifier:
        ours = [verdict.correct for verdict in verifier.verify(golds, completions)]
        assert verifier.stats.requests < len(golds) / 10  # nearly all are integers, equal text or repetitions
    # Theirs refuses `4:30 \text{ p.m.}` for `\text{4:30 p.m.}`, eight times; the rest is all but equal.
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 788
    assert len(theirs) == 800
