"""The mutants of the chassis, which its unit tests have to catch."""

from __future__ import annotations

from tests.mutation.patch import Mutant


def _of(file: str, *replaced: tuple[str, str], by: str) -> tuple[Mutant, ...]:
    return tuple(Mutant(f"daemon/{file}", old, new, (f"tests/unit/{by}.py",)) for old, new in replaced)


DAEMON_MUTANTS: tuple[Mutant, ...] = (
    *_of(
        "troubles",
        ("            if said is None or reads_differently or", "            if True or"),
        ("reads_differently or now - said.at >= REPEAT_AFTER:", "reads_differently:"),
        ("        if budget.lines < MAX_LINES:", "        if True:"),
        ("now if said is None else said.since", "now"),
        ("said.text != text and", "False and"),
        by="daemon/test_troubles",
    ),
    *_of(
        "troubles",
        (" and not problem.measured", ""),
        ("problem.severity is not Severity.DOWN)", "False)"),
        ("any(problem.severity is Severity.DOWN for problem in self.now)", "bool(self.now)"),
        ('f"overlay.{source}"', '"overlay"'),
        by="daemon/test_troubles",
    ),
    *_of(
        "reconcile",
        ("            except PrivilegeError:\n                raise\n", ""),
        ("                return self._retry\n", "                return self._every\n"),
        (", severity=self._severity)", ")"),
        ("self._every if look.due is None else min(look.due, self._every)", "self._every"),
        ("            self._troubles.found(self._topic, look.problems)\n", ""),
        (
            "            self.occasion.take()\n            await self.occasion.wait(await self.once())\n",
            "            due = await self.once()\n"
            "            self.occasion.take()\n"
            "            await self.occasion.wait(due)\n",
        ),
        ("        async with self._turn:\n            try:", "        if True:\n            try:"),
        by="daemon/test_reconcile",
    ),
    *_of(
        "lifetime",
        ("            raise first_of(group) from None\n", "            raise\n"),
        ("            for work in self._before_stop:\n                await work()\n", ""),
        ("            await asyncio.gather(running, stopped, return_exceptions=True)\n", "            pass\n"),
        ("for task in (running, stopped):\n                task.cancel()\n", "stopped.cancel()\n"),
        ("(number)\n            os.close(self._held)\n", "(number)\n"),
        by="daemon/test_lifetime",
    ),
    *_of(
        "confined/supervision",
        ("                if deaths > MAX_DEATHS:", "                if False:"),
        ("                    heard = loop.time()\n", "                    pass\n"),
        ("        except BaseException:\n            self._charge.end()\n            raise\n",
         "        except BaseException:\n            raise\n"),
        by="daemon/confined/test_supervision",
    ),
)  # fmt: skip
