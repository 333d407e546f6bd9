"""Two hosts on one machine as long as a command runs on the first: `python -m tests.hosts [--rate 1gbit] -- COMMAND`.

As root, with MPICH. The command finds HOSTS and LAUNCHER_ARGS in its environment:

    python -m tests.hosts -- sh -c 'python -m mpidp.launch -n 4 --hosts $HOSTS --launcher-args "$LAUNCHER_ARGS"'

However it ends, namespaces, link and processes are gone then; what a killed one has left, the next takes down.
"""

import argparse
import os
import shlex
import sys

from benchmarks.hosts import ADDRESSES, two_hosts
from mpidp.comm.endings import say
from mpidp.errors import UserError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="1gbit", help="of the link each way, as tc writes it")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    given = parser.parse_args(arguments)
    try:
        with two_hosts(given.rate) as hosts:
            os.environ |= {
                "HOSTS": ",".join(ADDRESSES),
                "LAUNCHER_ARGS": shlex.join(hosts.launcher_options()),
            }
            process = hosts.start(given.command, None)
            try:
                return process.wait()
            finally:
                process.kill()  # `unshare --kill-child`: all of the hosts' processes end with it
                process.wait()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
