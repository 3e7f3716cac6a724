"""A judgement in a process of its own, to be killed: judge_process.py PLACE URL COUNT."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "engines"))

from biased_judge import BiasedJudge, settings

from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.judging.command import judge


def main(place: str, url: str, count: str) -> int:
    made = BiasedJudge(int(count))
    try:
        scores = judge(made.answers, settings(url, concurrency=4), Path(place), say=print, references=made.baseline)
    except (UserError, RunFailed) as error:
        print(f"alpaca: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    print(json.dumps(asdict(scores)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
