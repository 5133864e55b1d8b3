#!/usr/bin/env python3
"""runc for a root who lacks CAP_SYS_RESOURCE, as in some containers: what needs it is taken out of the request.

Without it, nobody may lower an out-of-memory score or raise a limit, and runc gives up when it is asked to.
"""

import itertools
import json
import os
import sys

RUNC = "/usr/sbin/runc"


def without_resource(process: dict) -> None:
    capabilities = process.get("capabilities") or {}
    for name, given in capabilities.items():
        capabilities[name] = [each for each in given if each != "CAP_SYS_RESOURCE"]
    if (process.get("oomScoreAdj") or 0) < 0:
        del process["oomScoreAdj"]
    process.pop("rlimits", None)


def main(arguments: list[str]) -> None:
    for option, value in itertools.pairwise(arguments):
        if option in ("--bundle", "-b") and {"create", "run"} & set(arguments):
            _change(os.path.join(value, "config.json"), "process")
        elif option in ("--process", "-p") and "exec" in arguments:
            _change(value)
    os.execv(RUNC, [RUNC, *arguments])


def _change(path: str, key: str | None = None) -> None:
    with open(path) as file:
        request = json.load(file)
    without_resource(request[key] if key else request)
    with open(path, "w") as file:
        json.dump(request, file)


if __name__ == "__main__":
    main(sys.argv[1:])
