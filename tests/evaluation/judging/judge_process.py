"""A judgement in a process of its own, to be killed: judge_process.py PLACE URL COUNT ENGINE."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "engines"))

from biased_judge import BiasedJudge, settings

from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.judging.command import judge


def main(place: str, url: str, count: str, engine: str) -> int:
    made = BiasedJudge(int(count))
    chosen = settings(url, engine=engine, concurrency=4 if engine == "openai" else None, poll_s=0.05)
    try:
        scores = judge(made.answers, chosen, Path(place), say=print, references=made.baseline)
    except (UserError, RunFailed) as error:
        print(f"alpaca: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    print(json.dumps(asdict(scores)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
