"""Prints each change of contact between the broker and who belongs to an execution, as a line of JSON with its time."""

import contextlib
import json
import time

from theorbo.schemas.errors import TheorboError
from theorbo.schemas.frames import Command, Header, decode_json, encode_json
from theorbo.schemas.link import open_link


def main():
    known = {}
    link = open_link(None)
    print(json.dumps({"watching": True}), flush=True)
    while True:
        with contextlib.suppress(TheorboError):  # the broker is away
            answer = link.ask(Command.LIST, Header(), encode_json(all=False, limit=100))
            for view in decode_json(answer.body)["executions"]:
                for peer, contact in view["contact"].items():
                    key = view["execution"], peer
                    if known.get(key) != contact:
                        known[key] = contact
                        line = {"time": time.time(), "execution": key[0], "peer": peer, "contact": contact}
                        print(json.dumps(line), flush=True)
        time.sleep(0.2)


main()
