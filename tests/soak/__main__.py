"""``make soak``: 10,000 reconnects and 100,000 records of one device in 128 KiB, and its heap.

The last line says by how many bytes the heap in use grew; the exit status is 1 when it is not flat,
or when the device gave up.
"""

import argparse
import asyncio
import json
import sys
import time

from keyferry_hil.virtual_device import DeviceError
from soak.soak import HEAP, Sample, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--reconnects", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100, help="the heap is looked at after each")
    parser.add_argument("--json", action="store_true", help="one object at the end")
    options = parser.parse_args()
    begun = time.monotonic()
    shown = max(1, options.rounds // 20)
    if not options.json:
        print("  reconnects   records      used      free   largest    seconds")

    def progress(sample: Sample) -> None:
        number = sample.reconnects * options.rounds // max(1, options.reconnects)
        if not options.json and (number == 1 or number % shown == 0):
            print(
                f"  {sample.reconnects:10} {sample.records:9} {sample.used:9} {sample.free:9} "
                f"{sample.largest:9} {time.monotonic() - begun:10.0f}",
                flush=True,
            )

    try:
        found = asyncio.run(run(options.reconnects, options.records, options.rounds, progress))
    except DeviceError as error:
        print(f"the device gave up: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found.as_json()))
    else:
        last = found.samples[-1]
        print(
            f"{last.reconnects} reconnects, {last.records} records in a heap of {HEAP}: "
            f"{found.grown:+.0f} bytes, {'flat' if found.flat else 'NOT FLAT'}"
        )
    return 0 if found.flat else 1


if __name__ == "__main__":
    sys.exit(main())
