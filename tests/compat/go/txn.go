package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	tikverr "github.com/tikv/client-go/v2/error"
	"github.com/tikv/client-go/v2/kv"
	"github.com/tikv/client-go/v2/txnkv"
	"github.com/tikv/client-go/v2/txnkv/transaction"
	"golang.org/x/sync/errgroup"
)

func txnClient(cluster *playground) (*txnkv.Client, error) {
	if cluster.api == v2 {
		return txnkv.NewClient(cluster.endpoints, txnkv.WithAPIVersion(kvrpcpb.APIVersion_V2), txnkv.WithKeyspace("DEFAULT"))
	}
	return txnkv.NewClient(cluster.endpoints)
}

// How a transaction commits.
type mode struct {
	pessimistic, asyncCommit, onePhase bool
}

func begin(client *txnkv.Client, how mode) (*transaction.KVTxn, error) {
	txn, err := client.Begin()
	if err != nil {
		return nil, err
	}
	txn.SetPessimistic(how.pessimistic)
	txn.SetEnableAsyncCommit(how.asyncCommit)
	txn.SetEnable1PC(how.onePhase)
	return txn, nil
}

// Writes pairs in one transaction.
func write(ctx context.Context, client *txnkv.Client, pairs map[string]string) error {
	txn, err := begin(client, mode{})
	if err != nil {
		return err
	}
	for key, value := range pairs {
		if err := txn.Set([]byte(key), []byte(value)); err != nil {
			return err
		}
	}
	return txn.Commit(ctx)
}

// Reads a key now; nothing is "".
func read(ctx context.Context, client *txnkv.Client, key string) (string, error) {
	txn, err := client.Begin()
	if err != nil {
		return "", err
	}
	defer txn.Rollback()
	entry, err := txn.Get(ctx, []byte(key))
	if tikverr.IsErrNotFound(err) {
		return "", nil
	}
	return string(entry.Value), err
}

func txnTimestamps(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	var last uint64
	for range 200 {
		now, err := client.GetTimestamp(ctx)
		if err != nil {
			return err
		}
		if now <= last {
			return fmt.Errorf("%d after %d", now, last)
		}
		last = now
	}
	return nil
}

func txnCrud(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	txn, err := begin(client, mode{})
	if err != nil {
		return err
	}
	if _, err := txn.Get(ctx, name("t/crud", 0)); !tikverr.IsErrNotFound(err) {
		return fmt.Errorf("a key that was never written: %v", err)
	}
	var keys [][]byte
	for n := range 100 {
		keys = append(keys, name("t/crud", n))
		if err := txn.Set(keys[n], bytes.Repeat([]byte{'v'}, 1+n*10)); err != nil {
			return err
		}
	}
	if err := txn.Commit(ctx); err != nil {
		return err
	}
	txn, err = begin(client, mode{})
	if err != nil {
		return err
	}
	found, err := txn.BatchGet(ctx, keys)
	if err != nil || len(found) != 100 {
		return fmt.Errorf("found %d of 100, %v", len(found), err)
	}
	for n, key := range keys {
		if len(found[string(key)].Value) != 1+n*10 {
			return fmt.Errorf("%s has %d bytes", key, len(found[string(key)].Value))
		}
	}
	if err := txn.Delete(keys[1]); err != nil {
		return err
	}
	if err := txn.Commit(ctx); err != nil {
		return err
	}
	if value, err := read(ctx, client, string(keys[1])); err != nil || value != "" {
		return fmt.Errorf("a deleted key: %q, %v", value, err)
	}
	return nil
}

func txnScans(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	pairs := map[string]string{}
	for n := 0; n < 60; n += 2 {
		pairs[string(name("t/scan", n))] = strconv.Itoa(n)
	}
	if err := write(ctx, client, pairs); err != nil {
		return err
	}
	txn, err := begin(client, mode{})
	if err != nil {
		return err
	}
	defer txn.Rollback()
	if err := txn.Set(name("t/scan", 7), []byte("own")); err != nil {
		return err
	}
	if err := txn.Delete(name("t/scan", 8)); err != nil {
		return err
	}
	rows, err := txn.Iter(name("t/scan", 0), name("t/scan", 60))
	if err != nil {
		return err
	}
	var last []byte
	count := 0
	for ; rows.Valid(); count++ {
		if bytes.Compare(last, rows.Key()) >= 0 {
			return fmt.Errorf("%q after %q", rows.Key(), last)
		}
		last = bytes.Clone(rows.Key())
		if err := rows.Next(); err != nil {
			return err
		}
	}
	rows.Close()
	if count != 30 {
		return fmt.Errorf("%d pairs: 30 committed, one added, one removed", count)
	}
	back, err := txn.GetSnapshot().IterReverse(name("t/scan", 60), name("t/scan", 0))
	if err != nil {
		return err
	}
	defer back.Close()
	if !back.Valid() || !bytes.Equal(back.Key(), name("t/scan", 58)) {
		return fmt.Errorf("in reverse the first is not the last")
	}
	return nil
}

func txnConflict(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	first, err := begin(client, mode{})
	if err != nil {
		return err
	}
	second, err := begin(client, mode{})
	if err != nil {
		return err
	}
	for txn, value := range map[*transaction.KVTxn]string{first: "first", second: "second"} {
		if err := txn.Set([]byte("t/conflict"), []byte(value)); err != nil {
			return err
		}
	}
	if err := first.Commit(ctx); err != nil {
		return err
	}
	if err := second.Commit(ctx); !tikverr.IsErrWriteConflict(err) {
		return fmt.Errorf("the second writer began before the first's commit: %v", err)
	}
	if value, err := read(ctx, client, "t/conflict"); err != nil || value != "first" {
		return fmt.Errorf("the first won: %q, %v", value, err)
	}
	return nil
}

func txnSnapshot(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := write(ctx, client, map[string]string{"t/snapshot": "old"}); err != nil {
		return err
	}
	then, err := client.GetTimestamp(ctx)
	if err != nil {
		return err
	}
	if err := write(ctx, client, map[string]string{"t/snapshot": "new"}); err != nil {
		return err
	}
	entry, err := client.GetSnapshot(then).Get(ctx, []byte("t/snapshot"))
	if err != nil || string(entry.Value) != "old" {
		return fmt.Errorf("the past is kept: %q, %v", entry.Value, err)
	}
	if value, err := read(ctx, client, "t/snapshot"); err != nil || value != "new" {
		return fmt.Errorf("the present: %q, %v", value, err)
	}
	return nil
}

func txnFollowerRead(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := range 20 {
		value := strconv.Itoa(n)
		if err := write(ctx, client, map[string]string{"t/follower": value}); err != nil {
			return err
		}
		now, err := client.GetTimestamp(ctx)
		if err != nil {
			return err
		}
		snapshot := client.GetSnapshot(now)
		snapshot.SetReplicaRead(kv.ReplicaReadFollower)
		entry, err := snapshot.Get(ctx, []byte("t/follower"))
		if err != nil || string(entry.Value) != value {
			return fmt.Errorf("a follower says %q instead of %s, %v", entry.Value, value, err)
		}
	}
	return nil
}

func txnRollback(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	txn, err := begin(client, mode{pessimistic: true})
	if err != nil {
		return err
	}
	if err := txn.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, []byte("t/rollback")); err != nil {
		return err
	}
	if err := txn.Set([]byte("t/rollback"), []byte("x")); err != nil {
		return err
	}
	if err := txn.Rollback(); err != nil {
		return err
	}
	if value, err := read(ctx, client, "t/rollback"); err != nil || value != "" {
		return fmt.Errorf("it left %q, %v", value, err)
	}
	return nil
}

func txnLarge(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	pairs := map[string]string{}
	for n := range 300 {
		pairs[string(name("t/large", n))] = string(bytes.Repeat([]byte{'a' + byte(n%26)}, 15_000))
	}
	if err := write(ctx, client, pairs); err != nil {
		return err
	}
	for n := 0; n < 300; n += 37 {
		key := string(name("t/large", n))
		if value, err := read(ctx, client, key); err != nil || value != pairs[key] {
			return fmt.Errorf("%s has %d bytes, %v", key, len(value), err)
		}
	}
	return nil
}

func txnPessimisticLocks(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	key := []byte("t/locked")
	if err := write(ctx, client, map[string]string{string(key): "0"}); err != nil {
		return err
	}
	first, err := begin(client, mode{pessimistic: true})
	if err != nil {
		return err
	}
	if err := first.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, key); err != nil {
		return err
	}
	second, err := begin(client, mode{pessimistic: true})
	if err != nil {
		return err
	}
	if err := second.LockKeysWithWaitTime(ctx, kv.LockNoWait, key); !errors.Is(err, tikverr.ErrLockAcquireFailAndNoWaitSet) {
		return fmt.Errorf("a lock that is held, without waiting: %v", err)
	}
	if err := second.LockKeysWithWaitTime(ctx, 100, key); !errors.Is(err, tikverr.ErrLockWaitTimeout) {
		return fmt.Errorf("a lock that is held, waiting 100 ms: %v", err)
	}
	// Who waits for longer gets the lock when it is let go.
	granted := make(chan error, 1)
	go func() {
		lock := kv.NewLockCtx(second.StartTS(), kv.LockAlwaysWait, time.Now())
		lock.InitReturnValues(1)
		for {
			now, err := client.GetTimestamp(ctx)
			if err != nil {
				granted <- err
				return
			}
			lock.ForUpdateTS = now
			err = second.LockKeys(ctx, lock, key)
			if tikverr.IsErrWriteConflict(err) {
				continue // Woken after another's commit: once more, with a newer timestamp.
			}
			if err == nil && string(lock.Values[string(key)].Value) != "1" {
				err = fmt.Errorf("the lock came with %q", lock.Values[string(key)].Value)
			}
			granted <- err
			return
		}
	}()
	if err := first.Set(key, []byte("1")); err != nil {
		return err
	}
	if err := first.Commit(ctx); err != nil {
		return err
	}
	if err := <-granted; err != nil {
		return err
	}
	if err := second.Set(key, []byte("2")); err != nil {
		return err
	}
	if err := second.Commit(ctx); err != nil {
		return err
	}
	if value, err := read(ctx, client, string(key)); err != nil || value != "2" {
		return fmt.Errorf("the second's value: %q, %v", value, err)
	}
	return nil
}

func txnDeadlock(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	one, two := []byte("t/dead/1"), []byte("t/dead/2")
	first, err := begin(client, mode{pessimistic: true})
	if err != nil {
		return err
	}
	second, err := begin(client, mode{pessimistic: true})
	if err != nil {
		return err
	}
	defer first.Rollback()
	defer second.Rollback()
	if err := first.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, one); err != nil {
		return err
	}
	if err := second.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, two); err != nil {
		return err
	}
	outcomes := make(chan error, 2)
	go func() {
		err := first.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, two)
		if err != nil {
			_ = first.Rollback()
		}
		outcomes <- err
	}()
	go func() {
		err := second.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, one)
		if err != nil {
			_ = second.Rollback()
		}
		outcomes <- err
	}()
	var found *tikverr.ErrDeadlock
	for range 2 {
		// Who was woken by the other's rollback is told to try again with a newer timestamp.
		err := <-outcomes
		if err != nil && !errors.As(err, &found) && !tikverr.IsErrWriteConflict(err) {
			return fmt.Errorf("neither granted nor a deadlock: %w", err)
		}
	}
	if found == nil {
		return errors.New("nobody was told of the deadlock")
	}
	return nil
}

// How long a lock lives that nobody keeps alive, in milliseconds; usually it is 20 seconds.
const abandonedLockTTL = 2_000

// A writer that dies after it has locked its keys, optimistic and pessimistic: its locks are in the way until
// their time is over, and no longer.
func txnAbandoned(ctx context.Context, cluster *playground) error {
	usual := atomic.SwapUint64(&transaction.ManagedLockTTL, abandonedLockTTL)
	defer atomic.StoreUint64(&transaction.ManagedLockTTL, usual)
	dead, err := txnClient(cluster)
	if err != nil {
		return err
	}
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	one, two := "t/abandoned/1", "t/abandoned/2"
	if err := write(ctx, client, map[string]string{one: "before", two: "before"}); err != nil {
		return err
	}
	txn, err := begin(dead, mode{pessimistic: true})
	if err != nil {
		return err
	}
	if err := txn.LockKeysWithWaitTime(ctx, kv.LockAlwaysWait, []byte(one)); err != nil {
		return err
	}
	prewritten, err := begin(dead, mode{})
	if err != nil {
		return err
	}
	if err := prewritten.Set([]byte(two), []byte("never")); err != nil {
		return err
	}
	probe := transaction.TxnProbe{KVTxn: prewritten}
	committer, err := probe.NewCommitter(0)
	if err != nil {
		return err
	}
	if err := committer.PrewriteAllMutations(ctx); err != nil {
		return err
	}
	// With the client go its heartbeats: nobody says any more that they are alive.
	if err := dead.Close(); err != nil {
		return err
	}
	for _, key := range []string{one, two} {
		if value, err := read(ctx, client, key); err != nil || value != "before" {
			return fmt.Errorf("%s is %q, %v", key, value, err)
		}
	}
	return write(ctx, client, map[string]string{one: "after", two: "after"})
}

func txnSplitRegions(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	pairs := map[string]string{}
	for n := range 100 {
		pairs[string(name("t/split", n))] = strconv.Itoa(n)
	}
	if err := write(ctx, client, pairs); err != nil {
		return err
	}
	ids, err := client.SplitRegions(ctx, [][]byte{name("t/split", 30), name("t/split", 60)}, true, nil)
	if err != nil || len(ids) == 0 {
		return fmt.Errorf("regions %v, %v", ids, err)
	}
	for _, id := range ids {
		if err := client.WaitScatterRegionFinish(ctx, id, 0); err != nil {
			return fmt.Errorf("waiting for region %d to be scattered: %w", id, err)
		}
	}
	txn, err := begin(client, mode{})
	if err != nil {
		return err
	}
	defer txn.Rollback()
	rows, err := txn.Iter(name("t/split", 0), name("t/split", 100))
	if err != nil {
		return err
	}
	defer rows.Close()
	count := 0
	for ; rows.Valid(); count++ {
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if count != 100 {
		return fmt.Errorf("%d of 100 pairs over several regions", count)
	}
	return nil
}

// Transfers between accounts by eight tasks; the sum stays.
func bank(how mode) func(context.Context, *playground) error {
	return func(ctx context.Context, cluster *playground) error {
		client, err := txnClient(cluster)
		if err != nil {
			return err
		}
		defer client.Close()
		const accounts, each = 8, 100
		prefix := fmt.Sprintf("t/bank%v%v%v", how.pessimistic, how.asyncCommit, how.onePhase)
		start := map[string]string{}
		for n := range accounts {
			start[string(name(prefix, n))] = strconv.Itoa(each)
		}
		if err := write(ctx, client, start); err != nil {
			return err
		}
		total := func() (int, error) {
			txn, err := client.Begin()
			if err != nil {
				return 0, err
			}
			defer txn.Rollback()
			sum := 0
			for n := range accounts {
				entry, err := txn.Get(ctx, name(prefix, n))
				if err != nil {
					return 0, err
				}
				amount, err := strconv.Atoi(string(entry.Value))
				if err != nil {
					return 0, err
				}
				sum += amount
			}
			return sum, nil
		}
		var tasks errgroup.Group
		for range 8 {
			tasks.Go(func() error {
				for done := 0; done < 10; {
					from, to := rand.IntN(accounts), rand.IntN(accounts)
					if from == to {
						continue
					}
					err := transfer(ctx, client, how, name(prefix, from), name(prefix, to))
					var deadlock *tikverr.ErrDeadlock
					if err == nil {
						done++
					} else if !tikverr.IsErrWriteConflict(err) && !errors.As(err, &deadlock) {
						return err
					}
				}
				return nil
			})
		}
		tasks.Go(func() error {
			for range 10 {
				if sum, err := total(); err != nil || sum != accounts*each {
					return fmt.Errorf("meanwhile the sum is %d, %v", sum, err)
				}
			}
			return nil
		})
		if err := tasks.Wait(); err != nil {
			return err
		}
		if sum, err := total(); err != nil || sum != accounts*each {
			return fmt.Errorf("the sum is %d, %v", sum, err)
		}
		return nil
	}
}

func transfer(ctx context.Context, client *txnkv.Client, how mode, from, to []byte) error {
	txn, err := begin(client, how)
	if err != nil {
		return err
	}
	defer func() {
		if txn.Valid() {
			_ = txn.Rollback()
		}
	}()
	amounts := map[string]int{}
	if how.pessimistic {
		now, err := client.GetTimestamp(ctx)
		if err != nil {
			return err
		}
		lock := kv.NewLockCtx(now, kv.LockAlwaysWait, time.Now())
		lock.InitReturnValues(2)
		if err := txn.LockKeys(ctx, lock, from, to); err != nil {
			return err
		}
		for _, key := range [][]byte{from, to} {
			amount, err := strconv.Atoi(string(lock.Values[string(key)].Value))
			if err != nil {
				return fmt.Errorf("the lock on %s came with %q", key, lock.Values[string(key)].Value)
			}
			amounts[string(key)] = amount
		}
	} else {
		for _, key := range [][]byte{from, to} {
			entry, err := txn.Get(ctx, key)
			if err != nil {
				return err
			}
			if amounts[string(key)], err = strconv.Atoi(string(entry.Value)); err != nil {
				return err
			}
		}
	}
	amounts[string(from)]--
	amounts[string(to)]++
	for key, amount := range amounts {
		if err := txn.Set([]byte(key), []byte(strconv.Itoa(amount))); err != nil {
			return err
		}
	}
	return txn.Commit(ctx)
}

func txnGC(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := write(ctx, client, map[string]string{"t/gc": "new"}); err != nil {
		return err
	}
	now, err := client.GetTimestamp(ctx)
	if err != nil {
		return err
	}
	if done, err := client.GC(ctx, now); err != nil || done != now {
		return fmt.Errorf("the safe point is %d instead of %d, %v", done, now, err)
	}
	if value, err := read(ctx, client, "t/gc"); err != nil || value != "new" {
		return fmt.Errorf("the newest version stays: %q, %v", value, err)
	}
	return nil
}

func txnDestroyRange(ctx context.Context, cluster *playground) error {
	client, err := txnClient(cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	for _, key := range []string{"t/u/0", "t/u/1", "t/v/0"} {
		if err := write(ctx, client, map[string]string{key: "x"}); err != nil {
			return err
		}
	}
	if err := client.UnsafeDestroyRange(ctx, []byte("t/u/"), []byte("t/u0")); err != nil {
		return err
	}
	for key, expected := range map[string]string{"t/u/0": "", "t/u/1": "", "t/v/0": "x"} {
		if value, err := read(ctx, client, key); err != nil || value != expected {
			return fmt.Errorf("%s is %q, %v", key, value, err)
		}
	}
	return nil
}
