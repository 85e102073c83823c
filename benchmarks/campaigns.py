"""Commands killed at any moment, and commands that write into one run at once: do the files end as undisturbed?

    python -m benchmarks.campaigns FOLDER --kills 50

Each command is run by itself on a tiny run first. Then one after another is killed (SIGKILL) at a random moment and
given again, and every two of them are started at once. Afterwards each file must be, to the byte, one that the commands
make undisturbed in one order or the other, none may be missing, and nothing may be left behind: no hidden file, no
part, nothing in the system's temporary folder. Lightning's own logs, ``log.txt`` and the states of training are not
compared.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from rethink_heads.config import load_preset
from rethink_heads.data.shapes import shapes_root
from rethink_heads.files import write_text
from rethink_heads.locking import LOCK_NAME
from rethink_heads.runs import Run

SETTINGS = [
    *("model.backbone=resnet18", "model.pretrained=false", "model.fc_width=8"),
    *("model.min_size=64", "model.max_size=64", "model.rpn_proposals_test=20"),
    *("model.rpn_proposals_train=20", "model.rois_per_image=8", "model.score_threshold=0.0"),
    *("training.max_iterations=6", "training.batch_size=2", "training.warmup_iterations=0"),
    *("training.milestones=[]", "training.validate_every=3", "training.checkpoint_every=1"),
    *("training.workers=0", "measuring.grid_steps=3", "measuring.proposals_per_object=none"),
]
SWEEP = """
name: two
title: Two rules of fusion
points:
  - {label: max, head: double-ext, fusion: max}
  - {label: mean, head: double-ext, fusion: mean}
"""
# What each command needs: a run that is made, trained or measured.
NEEDS = {
    "train": "made",
    "demo": "made",
    "correlate": "trained",
    "stages": "trained",
    "evaluate": "trained",
    "regress": "trained",
    "sensitivity": "trained",
    "diagnose": "trained",
    "objects": "trained",
    "report": "trained",
    "sweep": "trained",
    "export": "trained",
    "import": "trained",
    "figures": "measured",
}
STATES = ("made", "trained", "measured")
# These wait for a run's training, which makes what the others need.
WAITING = (
    *("train", "demo", "correlate", "stages", "evaluate", "regress"),
    *("sensitivity", "diagnose", "objects", "report"),
)
NOT_COMPARED = ("log.txt", "logs", "best.ckpt", "last.ckpt", "drawn-with.json")
PATIENCE = 900.0
TIMES_NAME = "seconds.json"
# Of a file in the temporary folder that may be a detector's.
LARGE = 2**18


@dataclass
class Campaign:
    """A folder with tiny runs, and what the commands make of them.

    Attributes:
        hashes: by file, those that it has after some undisturbed command.
        files: by command, the files that it leaves.
        seconds: by command, how long it takes.
    """

    folder: Path
    hashes: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def arguments(self, command: str) -> list[str]:
        # Relative: a page has its command inside, packed.
        run = ["--run", "run"]
        return {
            "stages": ["correlate", *run, "--stage", "all"],
            "evaluate": ["evaluate", *run, "--errors", "--calibration"],
            "sweep": [
                *(
                    "sweep",
                    str(self.folder / "two.yaml"),
                    "--preset",
                    str(self.folder / "tiny.yaml"),
                ),
                *("--output", "sweep", "--use", "max=run"),
            ],
            "export": ["export", *run, "--output", "exported"],
            "import": ["import", str(self.exported), "--run", "imported"],
        }.get(command, [command, *run])

    @property
    def exported(self) -> Path:
        return self.folder / "export alone" / "exported" / "model.pth"

    def start(self, command: str, place: Path) -> subprocess.Popen[str]:
        temporary = place / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        cache = {"RETHINK_HEADS_CACHE": str(self.folder / "cache"), "TMPDIR": str(temporary)}
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        cache["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return subprocess.Popen(
            [sys.executable, "-m", "rethink_heads", *self.arguments(command)],
            cwd=place,
            env={**os.environ, **cache, "MPLCONFIGDIR": str(self.folder / "matplotlib")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        """What went wrong with a command; nothing where it ended well."""
        _, said = process.communicate(timeout=PATIENCE)
        return f"exit code {process.returncode}: {said[-800:]}" if process.returncode else ""

    def fresh(self, name: str, state: str) -> Path:
        """A new folder with a copy of the run in a state."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / state, place)
        return place

    def prepare(self, commands: list[str]) -> None:
        """Make the run's states, and let each command leave its files undisturbed; what is there already stays."""
        times = self.folder / TIMES_NAME
        if times.is_file():
            self.seconds = json.loads(times.read_text(encoding="utf-8"))
        else:
            self._make_states()
        for command in commands:
            place = self.folder / f"{command} alone"
            if command not in self.seconds:
                place = self.fresh(place.name, NEEDS[command])
                begun = time.monotonic()
                failure = self.finish(self.start(command, place))
                if failure:
                    raise RuntimeError(f"{command}: {failure}")
                self.seconds[command] = time.monotonic() - begun
                write_text(times, json.dumps(self.seconds))
            self.learn(place)
            self.files[command] = set(contents(place))

    def _make_states(self) -> None:
        data = shapes_root(0, self.folder / "cache", 4, 3)
        config = load_preset("shapes-tiny", "double-ext", [*SETTINGS, f"data.source={data}"])
        write_text(self.folder / "tiny.yaml", config.to_yaml())
        write_text(self.folder / "two.yaml", SWEEP)
        Run.create(self.folder / "made" / "run", config)
        for before, command, after in (
            ("made", "train", "trained"),
            ("trained", "correlate", "measured"),
        ):
            place = self.fresh(after, before)
            if failure := self.finish(self.start(command, place)):
                raise RuntimeError(f"{command}: {failure}")
            shutil.rmtree(place / "temporary")

    def learn(self, place: Path) -> None:
        for name, digest in contents(place).items():
            self.hashes.setdefault(name, set()).add(digest)

    def wrong(self, place: Path, commands: tuple[str, ...], state: str) -> str:
        """What is not as after the commands undisturbed."""
        left = left_behind(place) + left_behind(self.folder / "cache")
        if left:
            return f"left behind: {', '.join(left[:5])}"
        found = contents(place)
        missing = set().union(*(self.files[command] for command in commands)) - set(found)
        if missing:
            return f"missing: {', '.join(sorted(missing)[:5])}"
        other = [name for name, digest in found.items() if digest not in self.hashes.get(name, ())]
        if other and len(commands) > 1:
            # What figures draw depends on what was there: both orders are right.
            for order in itertools.permutations(commands):
                again = self.fresh("in turn", state)
                for command in order:
                    self.finish(self.start(command, again))
                self.learn(again)
            other = [n for n, digest in found.items() if digest not in self.hashes.get(n, ())]
        return f"other bytes: {', '.join(sorted(other)[:5])}" if other else ""

    def kill(self, command: str, moment: float) -> tuple[bool, str]:
        """Kill a command after a part of its time and give it again: whether it was hit, what is wrong then."""
        place = self.fresh("killed", NEEDS[command])
        process = self.start(command, place)
        time.sleep(moment * self.seconds[command])
        hit = process.poll() is None
        if hit:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        failure = self.finish(self.start(command, place))
        if "is not an empty folder" in failure:
            # Killed when its files were all there: an export writes into no folder that has one.
            failure = ""
        return hit, failure or self.wrong(place, (command,), NEEDS[command])

    def together(self, first: str, second: str) -> str:
        """Start two commands at once: what is wrong then."""
        state = max(NEEDS[first], NEEDS[second], key=STATES.index)
        waits = "made" in (NEEDS[first], NEEDS[second])
        state = "made" if waits else state
        place = self.fresh("together", state)
        processes = [self.start(first, place)]
        if waits:
            lock = place / "run" / LOCK_NAME
            while processes[0].poll() is None and not lock.exists():
                time.sleep(0.01)
        processes.append(self.start(second, place))
        failures = [failure for each in processes if (failure := self.finish(each))]
        allowed = first == second == "export" and len(failures) == 1
        if failures and not allowed:
            return "; ".join(failures)
        return self.wrong(place, (first, second), state)


def contents(place: Path) -> dict[str, str]:
    """By file, the hash of what is compared; of JSON and YAML without the folder's own path."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        if path.is_file() and not set(name.parts) & {*NOT_COMPARED, "temporary"}:
            content = path.read_bytes().replace(str(place).encode(), b"PLACE")
            found[str(name)] = hashlib.sha256(content).hexdigest()
    return found


def left_behind(place: Path) -> list[str]:
    """Hidden files and parts, and in the temporary folder what is as large as ours would be: libraries use it, too."""

    def is_left(path: Path) -> bool:
        if "temporary" in path.relative_to(place).parts:
            return path.is_file() and path.stat().st_size > LARGE
        return path.name.startswith(".") or path.name.endswith("parts")

    return [str(path.relative_to(place)) for path in place.rglob("*") if is_left(path)]


def main(
    folder: Annotated[Path, typer.Argument(help="New folder for the runs.")],
    kills: Annotated[int, typer.Option(help="Commands to kill.")] = 50,
    pairs: Annotated[int | None, typer.Option(help="Pairs to start. Without it: all.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Commands to take; all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments, and of the pairs' order.")] = 0,
) -> None:
    """Print a line for each kill and pair, then the counts as JSON; exit code 1 where anything is wrong."""
    commands = only or list(NEEDS)
    campaign, chance = Campaign(folder.absolute()), random.Random(seed)
    campaign.prepare(["export", *(each for each in commands if each != "export")])
    print({name: round(seconds, 1) for name, seconds in campaign.seconds.items()}, flush=True)
    hits, wrong = 0, []
    for number in range(kills):
        command, moment = commands[number % len(commands)], chance.random()
        hit, failure = campaign.kill(command, moment)
        hits += hit
        wrong += [f"kill {command}: {failure}"] if failure else []
        print(f"kill {command} at {moment:.2f}: {failure or 'as undisturbed'}", flush=True)
    both = [
        pair
        for pair in itertools.combinations_with_replacement(commands, 2)
        if "made" not in map(NEEDS.get, pair) or set(pair) <= set(WAITING)
    ]
    chance.shuffle(both)
    for first, second in both[:pairs]:
        failure = campaign.together(first, second)
        wrong += [f"{first} and {second}: {failure}"] if failure else []
        print(f"{first} and {second}: {failure or 'as undisturbed'}", flush=True)
    counts = {"kills": kills, "hit": hits, "pairs": len(both[:pairs]), "wrong": wrong}
    print(json.dumps(counts, indent=1))
    raise typer.Exit(int(bool(wrong)))


if __name__ == "__main__":
    typer.run(main)
