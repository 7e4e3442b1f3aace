package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync/atomic"

	tikverr "github.com/tikv/client-go/v2/error"
	"github.com/tikv/client-go/v2/rawkv"
	"github.com/tikv/client-go/v2/txnkv"
	"golang.org/x/sync/errgroup"
)

// A load like YCSB's: records of ten fields, chosen by a skewed distribution, under the six classic mixes. Every
// value says to which record it belongs and carries a checksum, so a read that comes back wrong is found at once;
// records that are read, changed and written back count how often, and the counts must add up.

const (
	loadRecords = 500
	loadTasks   = 8
	// Operations of each task in each mix.
	loadOperations = 60
	loadValueBytes = 1000
	loadScanMax    = 40
)

// A mix: thousandths of each kind of operation; the rest reads.
type mix struct {
	name                         string
	update, insert, scan, modify uint64
	// Whether the newest records are the likeliest, rather than a few fixed ones.
	latest bool
}

var mixes = []mix{
	{name: "a", update: 500},
	{name: "b", update: 50},
	{name: "c"},
	{name: "d", insert: 50, latest: true},
	{name: "e", insert: 50, scan: 950},
	{name: "f", modify: 500},
}

// What a mix is run against: pairs, one by one, and changes of one pair that do not overtake each other.
type store interface {
	read(ctx context.Context, key []byte) ([]byte, error)
	write(ctx context.Context, key, value []byte) error
	scan(ctx context.Context, start, end []byte, limit int) (keys, values [][]byte, err error)
	// Returns false when another was faster.
	modify(ctx context.Context, key []byte, change func([]byte) ([]byte, error)) (bool, error)
}

// A record: its number, how often it was changed, a checksum, and padding.
func record(number int, changes uint64) []byte {
	value := make([]byte, loadValueBytes)
	binary.BigEndian.PutUint64(value[4:], uint64(number))
	binary.BigEndian.PutUint64(value[12:], changes)
	for at := 20; at < len(value); at++ {
		value[at] = byte('a' + (number+at)%26)
	}
	binary.BigEndian.PutUint32(value, crc32.ChecksumIEEE(value[4:]))
	return value
}

func changesOf(number int, value []byte) (uint64, error) {
	if len(value) != loadValueBytes || crc32.ChecksumIEEE(value[4:]) != binary.BigEndian.Uint32(value) {
		return 0, fmt.Errorf("record %d comes back damaged: %d bytes", number, len(value))
	}
	if found := binary.BigEndian.Uint64(value[4:]); found != uint64(number) {
		return 0, fmt.Errorf("record %d was read instead of %d", found, number)
	}
	return binary.BigEndian.Uint64(value[12:]), nil
}

// All mixes, one after the other, on the same records.
func load(ctx context.Context, target store, prefix string) error {
	for number := range loadRecords {
		if err := target.write(ctx, name(prefix, number), record(number, 0)); err != nil {
			return fmt.Errorf("loading record %d: %w", number, err)
		}
	}
	records := atomic.Int64{}
	records.Store(loadRecords)
	var modified atomic.Int64
	for _, mix := range mixes {
		var tasks errgroup.Group
		for task := range loadTasks {
			tasks.Go(func() error {
				dice := rand.New(rand.NewPCG(uint64(task), uint64(mix.name[0])))
				zipf := rand.NewZipf(dice, 1.1, 10, loadRecords-1)
				for range loadOperations {
					if err := operate(ctx, target, prefix, mix, dice, zipf, &records, &modified); err != nil {
						return fmt.Errorf("mix %s: %w", mix.name, err)
					}
				}
				return nil
			})
		}
		if err := tasks.Wait(); err != nil {
			return err
		}
	}
	// Every record is there, in order, and was changed as often as somebody was told so.
	keys, values, err := target.scan(ctx, []byte(prefix+"/"), []byte(prefix+"0"), int(records.Load())+1)
	if err != nil || len(keys) != int(records.Load()) {
		return fmt.Errorf("%d records of %d are left, %w", len(keys), records.Load(), err)
	}
	var changes int64
	for number := range keys {
		if !bytes.Equal(keys[number], name(prefix, number)) {
			return fmt.Errorf("record %d is called %q", number, keys[number])
		}
		changed, err := changesOf(number, values[number])
		if err != nil {
			return err
		}
		changes += int64(changed)
	}
	if changes != modified.Load() {
		return fmt.Errorf("%d changes are counted, %d were acknowledged", changes, modified.Load())
	}
	return nil
}

func operate(ctx context.Context, target store, prefix string, mix mix, dice *rand.Rand, zipf *rand.Zipf,
	records, modified *atomic.Int64) error {
	number := int(zipf.Uint64())
	if mix.latest {
		// Below what was there before any insert under way.
		number = max(0, loadRecords-1-number)
	}
	draw := dice.Uint64N(1000)
	switch {
	case draw < mix.modify:
		for {
			done, err := target.modify(ctx, name(prefix, number), func(old []byte) ([]byte, error) {
				changes, err := changesOf(number, old)
				return record(number, changes+1), err
			})
			if err != nil {
				return err
			}
			if done {
				modified.Add(1)
				return nil
			}
		}
	case draw < mix.modify+mix.update:
		// Nothing is counted before the last mix.
		return target.write(ctx, name(prefix, number), record(number, 0))
	case draw < mix.modify+mix.update+mix.insert:
		fresh := int(records.Add(1)) - 1
		return target.write(ctx, name(prefix, fresh), record(fresh, 0))
	case draw < mix.modify+mix.update+mix.insert+mix.scan:
		limit := 1 + dice.IntN(loadScanMax)
		keys, values, err := target.scan(ctx, name(prefix, number), []byte(prefix+"0"), limit)
		if err != nil {
			return err
		}
		if len(keys) < min(limit, loadRecords-number) {
			return fmt.Errorf("%d records from %d on, at most %d", len(keys), number, limit)
		}
		// What is inserted meanwhile is there or not.
		for at := range min(len(keys), loadRecords-number) {
			if !bytes.Equal(keys[at], name(prefix, number+at)) {
				return fmt.Errorf("from %d on, the next but %d is %q", number, at, keys[at])
			}
			if _, err := changesOf(number+at, values[at]); err != nil {
				return err
			}
		}
		return nil
	default:
		value, err := target.read(ctx, name(prefix, number))
		if err != nil {
			return err
		}
		_, err = changesOf(number, value)
		return err
	}
}

// Raw keys; a change is a compare-and-swap.
type rawStore struct{ client *rawkv.Client }

func (s rawStore) read(ctx context.Context, key []byte) ([]byte, error) {
	return s.client.Get(ctx, key)
}
func (s rawStore) write(ctx context.Context, key, value []byte) error {
	return s.client.Put(ctx, key, value)
}
func (s rawStore) scan(ctx context.Context, start, end []byte, limit int) (keys, values [][]byte, err error) {
	return s.client.Scan(ctx, start, end, limit)
}

func (s rawStore) modify(ctx context.Context, key []byte, change func([]byte) ([]byte, error)) (bool, error) {
	old, err := s.client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	fresh, err := change(old)
	if err != nil {
		return false, err
	}
	_, swapped, err := s.client.CompareAndSwap(ctx, key, old, fresh)
	return swapped, err
}

func rawLoad(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	client.SetAtomicForCAS(true)
	return load(ctx, rawStore{client}, "load")
}

// Transactions of one operation each, in one way of committing.
type txnStore struct {
	client *txnkv.Client
	how    mode
}

func (s txnStore) read(ctx context.Context, key []byte) ([]byte, error) {
	value, err := read(ctx, s.client, string(key))
	return []byte(value), err
}

func (s txnStore) write(ctx context.Context, key, value []byte) error {
	for {
		done, err := s.modify(ctx, key, func([]byte) ([]byte, error) { return value, nil })
		if done || err != nil {
			return err
		}
	}
}

func (s txnStore) scan(ctx context.Context, start, end []byte, limit int) (keys, values [][]byte, err error) {
	txn, err := begin(s.client, s.how)
	if err != nil {
		return nil, nil, err
	}
	defer txn.Rollback()
	rows, err := txn.Iter(start, end)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Valid() && len(keys) < limit {
		keys, values = append(keys, bytes.Clone(rows.Key())), append(values, bytes.Clone(rows.Value()))
		if err := rows.Next(); err != nil {
			return nil, nil, err
		}
	}
	return keys, values, nil
}

func (s txnStore) modify(ctx context.Context, key []byte, change func([]byte) ([]byte, error)) (bool, error) {
	txn, err := begin(s.client, s.how)
	if err != nil {
		return false, err
	}
	defer func() {
		if txn.Valid() {
			_ = txn.Rollback()
		}
	}()
	entry, err := txn.Get(ctx, key)
	if err != nil && !tikverr.IsErrNotFound(err) {
		return false, err
	}
	fresh, err := change(entry.Value)
	if err != nil {
		return false, err
	}
	if err := txn.Set(key, fresh); err != nil {
		return false, err
	}
	err = txn.Commit(ctx)
	var deadlock *tikverr.ErrDeadlock
	if tikverr.IsErrWriteConflict(err) || errors.As(err, &deadlock) {
		return false, nil
	}
	return err == nil, err
}

func txnLoad(how mode) func(context.Context, *playground) error {
	return func(ctx context.Context, cluster *playground) error {
		client, err := txnClient(cluster)
		if err != nil {
			return err
		}
		defer client.Close()
		return load(ctx, txnStore{client, how}, fmt.Sprintf("t/load%v", how.asyncCommit))
	}
}
