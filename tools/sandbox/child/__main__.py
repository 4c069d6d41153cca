"""The program that the host starts afresh: the fork server, or the process that starts an interpreter.

Neither ever ran as part of the host, so no key or model was ever in its memory. The fork server is started
once, makes one confined child for each sandbox, has one thread, reads commands from one socket, and ends when
that socket closes; its children die with it.
"""

import json
import os
import sys


def main() -> None:
    """Serve the host. The only argument is a JSON object."""
    configuration = json.loads(sys.argv[1])
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    package = os.path.basename(here)  # noqa: PTH119
    sys.path.extend([*configuration.get("path", ()), os.path.dirname(here)])  # noqa: PTH120
    module = "monty_runner" if configuration.get("executor") == "monty" else "zygote"
    side = __import__(f"{package}.{module}", fromlist=["serve"])
    sys.path.pop()
    side.serve(configuration)


main()
