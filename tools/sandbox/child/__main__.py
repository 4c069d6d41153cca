"""The fork server: started once, fresh, by the host; makes one confined child for each sandbox.

It never ran as part of the host, so no key or model was ever in its memory. It has one thread, reads
commands from one socket, and ends when that socket closes; its children die with it.
"""

import json
import os
import sys


def main() -> None:
    """Serve on the socket that was inherited as descriptor 3. The only argument is a JSON object."""
    configuration = json.loads(sys.argv[1])
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    package = os.path.basename(here)  # noqa: PTH119
    sys.path.extend([*configuration["path"], os.path.dirname(here)])  # noqa: PTH120
    zygote = __import__(f"{package}.zygote", fromlist=["serve"])
    sys.path.pop()
    zygote.serve(configuration)


main()
