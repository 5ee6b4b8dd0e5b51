"""State machines that go many steps, and bugs planted on purpose that they must find.

``explore`` runs a machine for ``STEPS`` steps in few long runs, the same ones each time; ``BTOR_MACHINE_SEED=N`` is for
others, and ``BTOR_MACHINE_SEED=random`` draws a seed, which is printed. Where N is given, what fails is made as short
as Hypothesis can, which takes minutes. A ``Bug`` changes one place of one function while it is planted.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.internal.conjecture.providers import HypothesisProvider
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

STEPS = 10_000
RUN = 250  # steps of one run: whoever begins anew each 50 steps pays more for beginning than for stepping
SEED = "BTOR_MACHINE_SEED"
FIXED: Final = 1  # the seed of a run that asks for no other


class Machine(RuleBasedStateMachine):
    """A machine whose steps are counted. ``steps``: of all runs since ``explore`` began."""

    steps = 0

    @invariant()
    def _count(self) -> None:
        type(self).steps += 1


def explore(machine: type[Machine], seed: int | None = None, *, run: int = RUN) -> None:
    """Let ``machine`` go ``STEPS`` steps; whatever it finds is raised. ``run``: steps of one run."""
    wanted = os.environ.get(SEED, "")
    shrink = seed is None and wanted.isdecimal()
    if seed is None:
        seed = secrets.randbelow(2**32) if wanted == "random" else int(wanted or FIXED)
    print(f"{machine.__name__}: {SEED}={seed} repeats this")  # noqa: T201  # what pytest shows of a test that failed
    machine.steps = 0
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    while machine.steps < STEPS:  # some runs are cut short
        settings = hypothesis.settings(
            max_examples=-(-(STEPS - machine.steps) // run),
            stateful_step_count=run,
            phases=phases,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        )
        with pytest.MonkeyPatch.context() as patch:
            # else it now and then draws a constant of some module that happens to be loaded
            patch.setattr(HypothesisProvider, "_maybe_draw_constant", lambda *_args, **_more: None, raising=False)
            run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=settings)
        seed += 1


@dataclass(frozen=True, slots=True)
class Bug:
    """``function`` of ``owner`` with ``before``, which occurs in it once, replaced by ``after``.

    ``seed``: one that finds it soon.
    """

    name: str
    owner: type | ModuleType
    function: str
    before: str
    after: str
    seed: int = 1

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """While it lasts the program has the bug."""
        real: Any = inspect.getattr_static(self.owner, self.function)
        plain: Any = real.fget if isinstance(real, property) else getattr(real, "__func__", real)
        source = textwrap.dedent(inspect.getsource(plain))
        assert source.count(self.before) == 1, f"{self.name}: the place has changed"
        code = compile(
            source.replace(self.before, self.after), f"<{self.name}>", "exec"
        )  # annotations as here: strings
        names: dict[str, Any] = {}
        exec(code, plain.__globals__, names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.owner, self.function, names[self.function])
            yield


FOUND = (AssertionError, LookupError, TypeError, ValueError, AttributeError)


def finds(machine: type[Machine], bug: Bug, *, run: int = RUN) -> None:
    """AssertionError if ``machine`` goes all its steps and does not notice ``bug``."""
    with bug.planted(), pytest.raises(FOUND) as found:
        explore(machine, bug.seed, run=run)
    assert machine.steps > 0
    print(f"{bug.name}: {type(found.value).__name__} with seed {bug.seed} after {machine.steps} steps")  # noqa: T201  # as above


def named(bugs: Sequence[Bug]) -> pytest.MarkDecorator:
    """The parameters of a test that goes through ``bugs``."""
    return pytest.mark.parametrize("bug", bugs, ids=lambda bug: bug.name.replace(" ", "-"))
