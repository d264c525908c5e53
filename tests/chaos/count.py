"""An independent count over files of JSON lines, as `theorbo journal export`, `tail --json`, `run --json` and
`attach --json` write them. It shares no code with Theorbo: standard library, and its own idea of what is right.

    python -I tests/chaos/count.py FILE...

The files are parts of one view, in order of time: what an Executor got, and then its successors. An event is named by
execution, source, channel and number. Prints one JSON object:

lines, torn           lines in all; lines that are no JSON (the last one, if its writer was killed)
events                lines that are events of a stream
distinct              different events
twice                 events that one file has twice or more
again, unmarked       events that an earlier file had already; those of them that are not marked `redelivered`
marked                lines with `redelivered`
streams               source/channel: [first number, last number, distinct events]
counters              kind: different numbers that the ranks themselves have given to what they reported
counters_twice        those that came under two names; counters_missing: those below the largest that never came
losses, missed        loss events, and events that the view says it could not show
late                  events that came after the final state
punctual              the others: distinct ones of each stream, and a checksum that does not depend on their order
"""

import json
import sys
import zlib


def number_of_rank(event):
    """What the rank itself has counted, or None."""
    kind = event.get("kind")
    if kind == "log":
        word, _, number = event.get("text", "").partition(" ")
        return int(number) if word == "counter" else None
    if kind == "metric" and event.get("name") == "counter":
        return int(event["value"])
    if kind == "result":
        word, _, number = event.get("name", "").partition(" ")
        return int(number) if word == "counter" else None
    return None


class Numbers:
    """Which numbers were seen, and where last: a byte each, for there may be a million."""

    def __init__(self):
        self.seen = bytearray()
        self.count = 0

    def add(self, number, mark):
        """The mark under which `number` was seen before, or 0."""
        if number >= len(self.seen):
            self.seen.extend(bytes(number + 1 - len(self.seen) + 65536))
        before = self.seen[number]
        self.seen[number] = mark
        self.count += not before
        return before

    def bounds(self):
        """The first and the last number."""
        first = next((number for number, mark in enumerate(self.seen) if mark), 0)
        return first, len(self.seen.rstrip(b"\0")) - 1


def main(paths):
    found = dict.fromkeys(
        ("lines", "torn", "events", "distinct", "twice", "again", "unmarked", "marked", "counters_twice",
         "counters_missing", "losses", "missed", "late"), 0)  # fmt: skip
    streams, punctual, counters, kinds = {}, {}, {}, {}
    content = 0
    for mark, path in enumerate(paths, 1):
        with open(path, "rb") as lines:
            for line in lines:
                found["lines"] += 1
                try:
                    event = json.loads(line)
                except ValueError:
                    found["torn"] += 1
                    continue
                found["missed"] += event.get("kind") == "missed"
                if not (event.get("source") and event.get("number")):
                    continue
                found["events"] += 1
                stream = "{source}/{channel}".format(**event)
                before = streams.setdefault((event["execution"], stream), Numbers()).add(event["number"], mark)
                marked = bool(event.get("redelivered"))
                found["marked"] += marked
                if before:
                    found["twice"] += before == mark
                    found["again"] += before != mark
                    found["unmarked"] += before != mark and not marked
                    continue
                found["losses"] += event["kind"] == "loss"
                counter = number_of_rank(event)
                text = f"{stream}/{event['number']}/{event['kind']}/{counter}"
                checksum = zlib.crc32(text.encode()) + (len(text) << 40)
                if event.get("late"):
                    found["late"] += 1
                else:
                    punctual[stream] = punctual.get(stream, 0) + 1
                    content = (content + checksum) % (1 << 64)
                if counter is not None:
                    numbers = counters.setdefault(event["source"], Numbers())
                    found["counters_twice"] += bool(numbers.add(counter, 1))
                    kinds[event["kind"]] = kinds.get(event["kind"], 0) + 1
    found["distinct"] = sum(numbers.count for numbers in streams.values())
    for numbers in counters.values():
        found["counters_missing"] += numbers.bounds()[1] + 1 - numbers.count
    found["streams"] = {stream: [*numbers.bounds(), numbers.count] for (_, stream), numbers in sorted(streams.items())}
    found["punctual"] = {"streams": dict(sorted(punctual.items())), "content": content}
    found["counters"] = kinds
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
