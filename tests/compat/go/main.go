// Programs of ours against the official Go client, client-go v2, unmodified.
//
// The program named by the environment variable TESSERA is started as a playground on free ports, for
// each API version; every check gets a client of its own. The last line counts what passed.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/pingcap/log"
	"go.uber.org/zap"
)

// No check takes this long on a slow machine; one that does hangs.
const checkTimeout = 60 * time.Second

type tally struct {
	passed, failed int
}

func (t *tally) check(name string, what func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	start := time.Now()
	outcome := make(chan error, 1)
	go func() { outcome <- what(ctx) }()
	var err error
	select {
	case err = <-outcome:
	case <-ctx.Done():
		err = fmt.Errorf("did not finish within %v", checkTimeout)
	}
	if err != nil {
		t.failed++
		fmt.Printf("  FAILED  %s: %v\n", name, err)
		return
	}
	t.passed++
	fmt.Printf("  ok      %s (%d ms)\n", name, time.Since(start).Milliseconds())
}

func main() {
	program := os.Getenv("TESSERA")
	if program == "" {
		fmt.Fprintln(os.Stderr, "TESSERA must name the program under test; `cargo xtask compat` sets it")
		os.Exit(2)
	}
	// The client talks much; only what it cannot recover from is of interest here.
	logger, properties, err := log.InitLogger(&log.Config{Level: "fatal"})
	if err == nil {
		log.ReplaceGlobals(logger.WithOptions(zap.WithCaller(false)), properties)
	}
	var total tally
	for _, api := range []apiVersion{v1, v2, v1ttl} {
		fmt.Printf("client-go, API %s\n", api)
		if err := runAll(program, api, &total); err != nil {
			total.failed++
			fmt.Printf("  FAILED  %v\n", err)
		}
	}
	fmt.Printf("%d passed, %d failed\n", total.passed, total.failed)
	if total.failed > 0 {
		os.Exit(1)
	}
}

func runAll(program string, api apiVersion, total *tally) error {
	cluster, err := startPlayground(program, api)
	if err != nil {
		return err
	}
	defer cluster.kill()
	for _, one := range []struct {
		name string
		what func(context.Context, *playground) error
	}{
		{"raw: values come back, deletes remove", rawCrud},
		{"raw: batches", rawBatches},
		{"raw: scans see ranges in order, both ways", rawScans},
		{"raw: delete range leaves the neighbours", rawDeleteRange},
		{"raw: compare and swap swaps once", rawCompareAndSwap},
		{"raw: a checksum tells how many pairs there are", rawChecksum},
		{"raw: the loads of YCSB", rawLoad},
	} {
		total.check(one.name, func(ctx context.Context) error { return one.what(ctx, cluster) })
	}
	if api != v1 {
		total.check("raw: a time to live counts down", func(ctx context.Context) error { return rawTTL(ctx, cluster) })
	}
	if api != v1ttl { // Transactions are refused where raw values carry an expiry.
		for _, one := range []struct {
			name string
			what func(context.Context, *playground) error
		}{
			{"txn: timestamps grow", txnTimestamps},
			{"txn: values come back, deletes remove", txnCrud},
			{"txn: scans merge own writes, both ways", txnScans},
			{"txn: of two writers one is refused", txnConflict},
			{"txn: a snapshot does not see the future", txnSnapshot},
			{"txn: followers answer a snapshot", txnFollowerRead},
			{"txn: rollback leaves nothing", txnRollback},
			{"txn: a large transaction is split into batches", txnLarge},
			{"txn: pessimistic locks make others wait", txnPessimisticLocks},
			{"txn: a deadlock is found", txnDeadlock},
			{"txn: regions are split at given keys", txnSplitRegions},
			{"txn: bank, optimistic", bank(mode{})},
			{"txn: bank, async commit", bank(mode{asyncCommit: true})},
			{"txn: bank, one phase", bank(mode{asyncCommit: true, onePhase: true})},
			{"txn: bank, pessimistic", bank(mode{pessimistic: true})},
			{"txn: a reader resolves what a dead writer left", txnAbandoned},
			{"txn: the loads of YCSB", txnLoad(mode{})},
			{"txn: the loads of YCSB, async commit and one phase", txnLoad(mode{asyncCommit: true, onePhase: true})},
			{"txn: garbage collection", txnGC},
			{"txn: a range is destroyed", txnDestroyRange},
		} {
			total.check(one.name, func(ctx context.Context) error { return one.what(ctx, cluster) })
		}
	}
	return cluster.stop()
}
