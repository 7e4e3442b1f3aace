"""Programs of ours against the official Python client, tikv-client, unmodified.

The program named by the environment variable TESSERA is started as a playground on free ports. The
client is built on an early client-rust: it knows API version 1 only. The last line counts what passed.
"""

import asyncio
import os
import sys
import time

from tikv_client import RawClient, TransactionClient
from tikv_client import asynchronous

from playground import Playground

# No check takes this long on a slow machine; one that does hangs.
CHECK_TIMEOUT = 60


def key(prefix, number):
    return f"{prefix}/{number:05}".encode()


async def raw_crud(endpoints):
    client = await asynchronous.RawClient.connect(endpoints)
    assert await client.get(b"crud/a") is None, "a key that was never written"
    for value in (b"1", b"2"):
        await client.put(b"crud/a", value)
        assert await client.get(b"crud/a") == value
    await client.delete(b"crud/a")
    assert await client.get(b"crud/a") is None, "a deleted key"


async def raw_batches(endpoints):
    client = await asynchronous.RawClient.connect(endpoints)
    pairs = {key("batch", n): b"v" * (100 + n) for n in range(300)}
    await client.batch_put(pairs)
    found = dict(await client.batch_get(list(pairs)))
    assert found == pairs, f"{len(found)} of {len(pairs)} pairs"
    await client.batch_delete(list(pairs))
    assert not await client.batch_get(list(pairs)), "keys survived a batch delete"


async def raw_scans(endpoints):
    client = await asynchronous.RawClient.connect(endpoints)
    for n in range(50):
        await client.put(key("scan", n), str(n).encode())
    pairs = await client.scan(key("scan", 0), end=key("scan", 50), limit=50)
    assert [pair[0] for pair in pairs] == [key("scan", n) for n in range(50)], "all, in order"
    keys = await client.scan_keys(key("scan", 10), end=key("scan", 20), limit=5)
    assert keys == [key("scan", n) for n in range(10, 15)], "the limit holds"
    await client.delete_range(key("scan", 10), end=key("scan", 20))
    keys = await client.scan_keys(key("scan", 0), end=key("scan", 50), limit=40)
    assert keys == [key("scan", n) for n in [*range(10), *range(20, 50)]], "the neighbours are left"


async def txn_crud(endpoints):
    client = await asynchronous.TransactionClient.connect(endpoints)
    txn = await client.begin(pessimistic=False)
    assert await txn.get(key("t/crud", 0)) is None, "a key that was never written"
    for n in range(100):
        await txn.put(key("t/crud", n), b"v" * (1 + n))
    assert await txn.get(key("t/crud", 3)) == b"vvvv", "own writes are seen"
    await txn.commit()

    txn = await client.begin(pessimistic=False)
    found = await txn.batch_get([key("t/crud", n) for n in range(100)])
    assert len(found) == 100, f"found {len(found)} of 100"
    await txn.delete(key("t/crud", 1))
    await txn.commit()

    txn = await client.begin(pessimistic=False)
    assert await txn.get(key("t/crud", 1)) is None, "a deleted key"
    rows = await txn.scan(key("t/crud", 0), end=key("t/crud", 50), limit=1000)
    assert len(rows) == 49, f"scanned {len(rows)} of 49"
    await txn.rollback()


async def txn_snapshot(endpoints):
    client = await asynchronous.TransactionClient.connect(endpoints)
    txn = await client.begin(pessimistic=False)
    await txn.put(b"t/snapshot", b"old")
    await txn.commit()
    then = await client.current_timestamp()
    txn = await client.begin(pessimistic=False)
    await txn.put(b"t/snapshot", b"new")
    await txn.commit()
    assert await client.snapshot(then, pessimistic=False).get(b"t/snapshot") == b"old", "the past is kept"


async def txn_conflict(endpoints):
    client = await asynchronous.TransactionClient.connect(endpoints)
    first = await client.begin(pessimistic=False)
    second = await client.begin(pessimistic=False)
    await first.put(b"t/conflict", b"first")
    await second.put(b"t/conflict", b"second")
    await first.commit()
    try:
        await second.commit()
    except Exception as refusal:  # the client has no type of its own for it
        assert "onflict" in str(refusal), refusal
    else:
        raise AssertionError("the second writer began before the first's commit")


def bank(pessimistic):
    async def run(endpoints):
        accounts, each = 6, 100
        client = await asynchronous.TransactionClient.connect(endpoints)
        prefix = f"t/bank{pessimistic}"
        txn = await client.begin(pessimistic=False)
        for n in range(accounts):
            await txn.put(key(prefix, n), str(each).encode())
        await txn.commit()

        async def transfers(task):
            done = 0
            turn = 0
            while done < 10:
                turn += 1
                source, target = key(prefix, (task + turn) % accounts), key(prefix, (task + 3 * turn + 1) % accounts)
                if source == target:
                    continue
                txn = await client.begin(pessimistic=pessimistic)
                try:
                    read = txn.get_for_update if pessimistic else txn.get
                    # In one order everywhere, so that pessimistic tasks do not wait in a ring.
                    amounts = {name: int(await read(name)) for name in sorted((source, target))}
                    amounts[source] -= 1
                    amounts[target] += 1
                    for name, amount in amounts.items():
                        await txn.put(name, str(amount).encode())
                    await txn.commit()
                    done += 1
                except Exception as refusal:
                    if "onflict" not in str(refusal):
                        raise
                    try:
                        await txn.rollback()
                    except Exception:
                        pass  # A commit that failed has ended the transaction already.

        await asyncio.gather(*(transfers(task) for task in range(4)))
        txn = await client.begin(pessimistic=False)
        total = sum([int(await txn.get(key(prefix, n))) for n in range(accounts)])
        await txn.rollback()
        assert total == accounts * each, f"the sum is {total}"
    return run


CHECKS = [
    ("raw: values come back, deletes remove", raw_crud),
    ("raw: batches", raw_batches),
    ("raw: scans see ranges in order, delete range leaves the neighbours", raw_scans),
    ("txn: values come back, deletes remove", txn_crud),
    ("txn: a snapshot does not see the future", txn_snapshot),
    ("txn: of two writers one is refused", txn_conflict),
    ("txn: bank, optimistic", bank(False)),
    ("txn: bank, pessimistic", bank(True)),
]


def blocking(endpoints):
    """The client's other face, without asyncio."""
    raw = RawClient.connect(endpoints)
    raw.put(b"blocking", b"1")
    assert raw.get(b"blocking") == b"1"
    txn = TransactionClient.connect(endpoints).begin()
    txn.put(b"t/blocking", b"2")
    txn.commit()
    txn = TransactionClient.connect(endpoints).begin()
    assert txn.get(b"t/blocking") == b"2"
    txn.rollback()


def main():
    program = os.environ.get("TESSERA")
    if not program:
        print("TESSERA must name the program under test; `cargo xtask compat` sets it", file=sys.stderr)
        return 2
    passed = failed = 0
    print("tikv-client for Python, API 1")
    with Playground(program, "1") as cluster:
        for name, check in CHECKS:
            start = time.monotonic()
            try:
                asyncio.run(asyncio.wait_for(check(cluster.endpoints), CHECK_TIMEOUT))
                passed += 1
                print(f"  ok      {name} ({(time.monotonic() - start) * 1000:.0f} ms)")
            except Exception as problem:
                failed += 1
                print(f"  FAILED  {name}: {problem!r}")
        try:
            asyncio.set_event_loop(asyncio.new_event_loop())
            blocking(cluster.endpoints)
            passed += 1
            print("  ok      without asyncio")
        except Exception as problem:
            failed += 1
            print(f"  FAILED  without asyncio: {problem!r}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
