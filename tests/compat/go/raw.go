package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/tikv/client-go/v2/rawkv"
	"golang.org/x/sync/errgroup"
)

func rawClient(ctx context.Context, cluster *playground) (*rawkv.Client, error) {
	version := kvrpcpb.APIVersion_V1
	switch cluster.api {
	case v1ttl:
		version = kvrpcpb.APIVersion_V1TTL
	case v2:
		version = kvrpcpb.APIVersion_V2
	}
	return rawkv.NewClientWithOpts(ctx, cluster.endpoints, rawkv.WithAPIVersion(version))
}

func name(prefix string, number int) []byte {
	return fmt.Appendf(nil, "%s/%05d", prefix, number)
}

func rawCrud(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	key := []byte("crud/a")
	if value, err := client.Get(ctx, key); err != nil || value != nil {
		return fmt.Errorf("a key that was never written: %q, %v", value, err)
	}
	for _, value := range []string{"1", "2"} {
		if err := client.Put(ctx, key, []byte(value)); err != nil {
			return err
		}
		if found, err := client.Get(ctx, key); err != nil || string(found) != value {
			return fmt.Errorf("put %s, got %q, %v", value, found, err)
		}
	}
	if err := client.Delete(ctx, key); err != nil {
		return err
	}
	if value, err := client.Get(ctx, key); err != nil || value != nil {
		return fmt.Errorf("a deleted key: %q, %v", value, err)
	}
	return nil
}

func rawBatches(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	const count = 1000
	var keys, values [][]byte
	for n := range count {
		keys = append(keys, name("batch", n))
		values = append(values, bytes.Repeat([]byte{'v'}, 100+n))
	}
	if err := client.BatchPut(ctx, keys, values); err != nil {
		return err
	}
	found, err := client.BatchGet(ctx, append(keys, []byte("batch/none")))
	if err != nil {
		return err
	}
	for n := range count {
		if !bytes.Equal(found[n], values[n]) {
			return fmt.Errorf("%s has %d bytes", keys[n], len(found[n]))
		}
	}
	if found[count] != nil {
		return fmt.Errorf("a key that was never written has %d bytes", len(found[count]))
	}
	if err := client.BatchDelete(ctx, keys); err != nil {
		return err
	}
	left, _, err := client.Scan(ctx, []byte("batch/"), []byte("batch0"), 10)
	if err != nil || len(left) != 0 {
		return fmt.Errorf("%d keys survived a batch delete, %v", len(left), err)
	}
	return nil
}

func rawScans(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := range 50 {
		if err := client.Put(ctx, name("scan", n), fmt.Appendf(nil, "value %d", n)); err != nil {
			return err
		}
	}
	keys, values, err := client.Scan(ctx, name("scan", 0), name("scan", 50), 1000)
	if err != nil || len(keys) != 50 {
		return fmt.Errorf("scanned %d of 50, %v", len(keys), err)
	}
	for n := range keys {
		if !bytes.Equal(keys[n], name("scan", n)) || string(values[n]) != fmt.Sprintf("value %d", n) {
			return fmt.Errorf("pair %d is %q = %q", n, keys[n], values[n])
		}
	}
	keys, values, err = client.Scan(ctx, name("scan", 10), name("scan", 20), 5, rawkv.ScanKeyOnly())
	if err != nil || len(keys) != 5 || len(values[0]) != 0 {
		return fmt.Errorf("keys only, at most 5: %d, %v", len(keys), err)
	}
	keys, _, err = client.ReverseScan(ctx, name("scan", 50), name("scan", 0), 10)
	if err != nil || len(keys) != 10 || !bytes.Equal(keys[0], name("scan", 49)) {
		return fmt.Errorf("in reverse: %q, %v", keys, err)
	}
	return nil
}

func rawDeleteRange(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := range 30 {
		if err := client.Put(ctx, name("range", n), []byte("x")); err != nil {
			return err
		}
	}
	if err := client.DeleteRange(ctx, name("range", 10), name("range", 20)); err != nil {
		return err
	}
	keys, _, err := client.Scan(ctx, name("range", 0), name("range", 30), 100)
	if err != nil || len(keys) != 20 || !bytes.Equal(keys[9], name("range", 9)) || !bytes.Equal(keys[10], name("range", 20)) {
		return fmt.Errorf("left: %q, %v", keys, err)
	}
	return nil
}

func rawCompareAndSwap(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	client.SetAtomicForCAS(true)
	key := []byte("cas/counter")
	if err := client.Delete(ctx, key); err != nil {
		return err
	}
	if previous, swapped, err := client.CompareAndSwap(ctx, key, nil, []byte("0")); err != nil || previous != nil || !swapped {
		return fmt.Errorf("absent, as expected: %q, %v, %v", previous, swapped, err)
	}
	if previous, swapped, err := client.CompareAndSwap(ctx, key, []byte("7"), []byte("8")); err != nil || string(previous) != "0" || swapped {
		return fmt.Errorf("a wrong guess changes nothing: %q, %v, %v", previous, swapped, err)
	}
	var tasks errgroup.Group
	for range 8 {
		tasks.Go(func() error {
			for done := 0; done < 10; {
				current, err := client.Get(ctx, key)
				if err != nil {
					return err
				}
				number, err := strconv.Atoi(string(current))
				if err != nil {
					return err
				}
				_, swapped, err := client.CompareAndSwap(ctx, key, current, []byte(strconv.Itoa(number+1)))
				if err != nil {
					return err
				}
				if swapped {
					done++
				}
			}
			return nil
		})
	}
	if err := tasks.Wait(); err != nil {
		return err
	}
	if value, err := client.Get(ctx, key); err != nil || string(value) != "80" {
		return fmt.Errorf("80 increments: %q, %v", value, err)
	}
	return nil
}

func rawChecksum(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := range 20 {
		if err := client.Put(ctx, name("sum", n), fmt.Appendf(nil, "value %d", n*n)); err != nil {
			return err
		}
	}
	sum, err := client.Checksum(ctx, name("sum", 0), name("sum", 20))
	if err != nil || sum.TotalKvs != 20 || sum.Crc64Xor == 0 {
		return fmt.Errorf("the sum is %+v, %v", sum, err)
	}
	return nil
}

func rawTTL(ctx context.Context, cluster *playground) error {
	client, err := rawClient(ctx, cluster)
	if err != nil {
		return err
	}
	defer client.Close()
	if left, err := client.GetKeyTTL(ctx, []byte("ttl/none")); err != nil || left != nil {
		return fmt.Errorf("no key, no time: %v, %v", left, err)
	}
	if err := client.PutWithTTL(ctx, []byte("ttl/a"), []byte("x"), 10); err != nil {
		return err
	}
	left, err := client.GetKeyTTL(ctx, []byte("ttl/a"))
	if err != nil || left == nil || *left < 5 || *left > 10 {
		return fmt.Errorf("of 10 seconds are left: %v, %v", left, err)
	}
	if err := client.PutWithTTL(ctx, []byte("ttl/short"), []byte("x"), 1); err != nil {
		return err
	}
	for {
		value, err := client.Get(ctx, []byte("ttl/short"))
		if err != nil {
			return err
		}
		if value == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a value of one second lives on")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
