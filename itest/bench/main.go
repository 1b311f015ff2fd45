// Command bench measures Sluice on real nodes: btcd, unpatched lnds and sluiced,
// on this machine.
//
//	make bench NAME=jit             a payment that opens its own channel, beside a bare program
//	make bench NAME=forward         ordinary forwards, beside a gateway without interceptor, and one with a bare program
//	make bench NAME=forward-proxied the same with two programs attached to sluiced
//	make bench NAME=memory          what sluiced needs, and how soon it is ready
//	make bench NAME=lsps            LSPS requests of 1,000 clients, on both databases and over real peer connections
//	make bench NAME=jit-mpp         payments of 10 parts, beside bare inserts of the rows that they make
//	make bench NAME=hold            400 held payments, beside a bare program that resumes all at once
//	make bench NAME=vault           puts of backups on both databases, beside bare inserts
//	make bench NAME=swaps           50 swaps out begun at once, and what transactions weigh that swaps share
//	make bench NAME=tower           a watchtower's uploads and its search, beside lnd's
//	make bench NAME=signer          payments of watch-only nodes, their signers near, far and guarded, beside a node with its own keys
//
// It promises that whatever is compared runs in one process run, arm by arm
// interleaved, so that a busy machine slows both; ratios are what counts, and
// absolute figures are printed beside them. The last line of standard output is
// "NAME: key=value ...". The exit status is 1 when a gate is missed or a payment
// fails, 2 when the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// errMissed says that everything ran and a gate was missed.
var errMissed = errors.New("a gate was missed")

// bench is what a benchmark is given.
type bench struct {
	out      io.Writer
	seed     uint64
	payments int // jit: per arm
	blocks   int // forward: per arm
	stored   int // memory
	requests int // lsps: per database
	sets     int // jit-mpp: payments per database
	updates  int // tower
	rounds   int // hold, signer: per arm
	// walletChannels is how many the wallet of hold has. Over several the bare program, which
	// resumes at the first that is active, has lnd do less than Sluice has: see docs/offline.md.
	walletChannels int
	notes          int // hold
	keep           bool
	noPeers        bool // lsps: without the round trips between real nodes
	profile        string
	began          time.Time
}

// say prints one line of progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "%7.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	b := &bench{out: stdout, began: time.Now()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&b.seed, "seed", uint64(b.began.UnixNano()), "seed of the resampling") //nolint:gosec // any number will do
	flags.IntVar(&b.payments, "payments", 30, "jit: payments per arm")
	flags.IntVar(&b.blocks, "blocks", 40, "forward: blocks of 200 payments per arm")
	flags.IntVar(&b.stored, "stored", 10_000, "memory: payments in the database")
	flags.IntVar(&b.requests, "requests", 10_000, "lsps: requests per database")
	flags.IntVar(&b.sets, "sets", 200, "jit-mpp: payments of 10 parts per database")
	flags.IntVar(&b.updates, "updates", 1_000_000, "tower: updates in the database")
	flags.IntVar(&b.walletChannels, "wallet-channels", 1, "hold: channels of the wallet with each gateway, 1 to 4 (default 1)")
	flags.IntVar(&b.rounds, "rounds", 0, "hold, signer: rounds per arm (default 9 for hold, whose rounds differ more, and 5)")
	flags.IntVar(&b.notes, "notices", 20, "hold: calls of the wallet's webhook")
	flags.BoolVar(&b.noPeers, "no-peers", false, "lsps: leave out the round trips between real nodes")
	flags.StringVar(&b.profile, "cpuprofile", "", "write a CPU profile to this file")
	flags.BoolVar(&b.keep, "keep", false, "leave the network's directory behind, for reading logs")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: bench [flags] jit|forward|forward-proxied|memory|lsps|jit-mpp|vault|tower|hold|open|signer|swaps")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 3 && flags.Arg(0) == towerChild {
		if err := b.searchHere(ctx, flags.Arg(1), flags.Arg(2)); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		return 0
	}
	benches := map[string]func(context.Context, *bench) (result, error){
		"jit": runJit, "forward": runForward, "forward-proxied": runForwardProxied, "memory": runMemory, "lsps": runLSPS, "jit-mpp": runJitMPP, "vault": runVault, "tower": runTower, "hold": runHold, "open": runOpen, "signer": runSigner, "swaps": runSwaps,
	}
	do, known := benches[flags.Arg(0)]
	if b.rounds == 0 {
		b.rounds = 5
		if flags.Arg(0) == "hold" {
			b.rounds = 9
		}
	}
	if flags.NArg() != 1 || !known || b.payments < 2 || b.blocks < 2 || b.stored < 10 || b.requests < 10 || b.sets < 2 || b.updates < 1000 || b.rounds < 2 || b.notes < 2 || b.walletChannels < 1 || b.walletChannels > 4 {
		flags.Usage()
		return 2
	}
	stopProfile, err := b.startProfile()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	res, err := do(ctx, b)
	stopProfile()
	if err == nil || errors.Is(err, errMissed) {
		b.say("other programs on this machine slow absolute figures, not ratios")
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench %s: %v\n", flags.Arg(0), err)
	}
	if len(res) > 0 {
		fmt.Fprintf(stdout, "%s: %s\n", flags.Arg(0), res)
	}
	if err != nil {
		return 1
	}
	return 0
}

// startProfile profiles until the function that it returns is called.
func (b *bench) startProfile() (stop func(), err error) {
	if b.profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(b.profile)
	if err != nil {
		return nil, fmt.Errorf("write a CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("write a CPU profile: %w", errors.Join(err, f.Close()))
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// result is the last line's figures, in order.
type result []figure

type figure struct{ key, value string }

func (r *result) add(key, format string, value any) {
	*r = append(*r, figure{key, fmt.Sprintf(format, value)})
}

func (r result) String() string {
	parts := make([]string, 0, len(r))
	for _, f := range r {
		parts = append(parts, f.key+"="+f.value)
	}
	return strings.Join(parts, " ")
}
