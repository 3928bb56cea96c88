"""A recipe on a Ray cluster: the tasks of `forebay task`, as Ray remote functions.

    >>> forebay.run("recipe.toml", executor="ray", address="auto")

All nodes see inputs and output, and have the same forebay. Only the recipe, names of tasks and counts
pass through Ray; data goes from the store to the store. A task may run twice, anywhere: it commits by
rename. So a worker or node that is lost only costs what it had in hand, and a straggler gets a second
copy, whichever ends first.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from . import _core, errors

# A second copy of a task starts when it has taken so many times the 95th percentile of its stage.
SLOW = 2.0
# Below this, in seconds, a second copy costs more than it saves.
SOON = 2.0
# How often a task is given to another worker when its own has gone.
RETRIES = 8
# What `find` does alone as fast, where there is nobody to share it with.
ROUNDS = ("exact", "url", "link", "thin", "group", "place", "compare")


def _perform(recipe: str, stage: str, number: int, of: int) -> str | None:
    """On a worker; the GIL is free meanwhile."""
    return _core.perform(recipe, stage, number, of)


def run(
    recipe: str,
    *,
    address: str | None = None,
    tasks: int | None = None,
    runtime_env: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Runs a recipe of JSON, as `_core.read_recipe` gives it.

    Args:
        address: Of a cluster; one of this machine is started if there is none.
        tasks: Shares of the stages that have shares; four for each CPU of the cluster by default.
        runtime_env: Of the workers, as Ray takes it.
        progress: Is told stage, tasks done and all tasks.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, include_dashboard=False)
    try:
        machine = json.loads(recipe)["execution"]
        cpus = machine.get("threads") or 1
        recipe = json.dumps(json.loads(recipe) | {"execution": machine | {"threads": cpus}})
        slots = int(ray.cluster_resources().get("CPU", 1)) // cpus
        of = tasks or max(4, 4 * slots)
        # By default Ray fills the node of the driver first, and waits for it while others are idle.
        resources = {"num_cpus": cpus, "max_retries": RETRIES, "memory": _bytes(machine["memory"]), "scheduling_strategy": "SPREAD"}
        with contextlib.suppress(KeyError, ValueError):
            # More than any node has would wait for ever: the limit then is the node's.
            if resources["memory"] > max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]):
                del resources["memory"]
        remote = ray.remote(**resources)(_perform)
        found = None
        for stage, count in _core.stages(recipe, of):
            if tasks is None and slots <= 1 and stage in ROUNDS:
                continue
            numbers = list(range(count))
            if stage == "read":
                # The largest first, so that none is left alone at the end.
                size = _core.bytes_to_read(recipe, count)
                numbers = sorted((number for number in numbers if size[number]), key=lambda number: -size[number])
            found = _stage(ray, remote, recipe, stage, numbers, count, progress)
        return json.loads(next(iter(found.values())))
    finally:
        if ours:
            ray.shutdown()


def _stage(ray: Any, remote: Any, recipe: str, stage: str, numbers: list[int], of: int, progress: Any) -> dict[int, str | None]:
    """All tasks of a stage, and second copies of those that take long."""
    count = len(numbers)
    begun = {remote.remote(recipe, stage, number, of): (number, time.monotonic()) for number in numbers}
    # Two machines may not settle who stays at once, nor finish.
    may_copy = count > 1
    copied: set[int] = set()
    done: dict[int, str | None] = {}
    took: list[float] = []
    try:
        while len(done) < count:
            ready, _ = ray.wait(list(begun), num_returns=1, timeout=1.0)
            for task in ready:
                number, start = begun.pop(task)
                try:
                    answer = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    if number in done or any(other == number for other, _ in begun.values()):
                        continue
                    raise _cause(error) from None
                except ray.exceptions.RayError as error:
                    if number in done or any(other == number for other, _ in begun.values()):
                        continue
                    what = f"{stage} {number}/{of}: lost {RETRIES + 1} workers"
                    raise errors.Error(f"{what}: {error}", "run it again: it goes on where it was") from error
                if number not in done:
                    done[number] = answer
                    took.append(time.monotonic() - start)
                    if progress:
                        progress(stage, len(done), count)
            if may_copy and len(took) > max(2, count // 2):
                limit = max(SOON, SLOW * statistics.quantiles(took, n=20)[-1])
                late = {number for number, start in begun.values() if time.monotonic() - start > limit}
                for number in late - copied - done.keys():
                    copied.add(number)
                    begun[remote.remote(recipe, stage, number, of)] = (number, time.monotonic())
    finally:
        # Copies that lost: what they write is what is there. And what is left after an error or Ctrl-C.
        for task in begun:
            ray.cancel(task)
    return done


def _cause(error: Any) -> BaseException:
    """Our own exception, as a worker raised it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, errors.Error) else error


def _bytes(size: str | int) -> int:
    """`4GiB`, as a recipe writes it."""
    if isinstance(size, int):
        return size
    for unit, shift in (("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)):
        if size.endswith(unit):
            return int(size.removesuffix(unit)) << shift
    return int(size)


def main() -> int:
    """`python -m forebay.ray RECIPE`: what `forebay run --executor ray` calls; the result as JSON on stdout."""
    import argparse
    import sys

    import forebay

    parser = argparse.ArgumentParser(prog="python -m forebay.ray", description="Runs a recipe on a Ray cluster.")
    parser.add_argument("recipe")
    parser.add_argument("--address", help="of the cluster; one of this machine by default")
    parser.add_argument("--tasks", type=int, help="shares of a stage; four for each CPU by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    wrong = [setting for setting in given.set if "=" not in setting]
    if wrong:
        parser.error(f"--set: expected KEY=VALUE, found {wrong[0]!r}")
    try:
        settings = dict(setting.split("=", 1) for setting in given.set)
        found = forebay.run(given.recipe, executor="ray", address=given.address, tasks=given.tasks, set=settings)
    except errors.Error as error:
        hint = f"\nhint: {error.hint}" if getattr(error, "hint", None) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
