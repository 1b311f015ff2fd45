// Command lndclientprogram stands for the programs that operators run beside their
// lnd: it is written on lndclient and knows nothing of Sluice. It lets every forward
// pass but those of one amount, and refuses channels below a size. Each line that it
// prints is something that happened, for a test to read.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/lightninglabs/lndclient"
	"github.com/lightningnetwork/lnd/lnwire"
)

func main() {
	address := flag.String("lnd", "", "host:port of lnd's gRPC listener")
	cert := flag.String("tls", "", "path of its TLS certificate")
	macaroon := flag.String("macaroon", "", "path of a macaroon")
	failMsat := flag.Uint64("fail-msat", 0, "forwards of this amount are failed")
	minSat := flag.Int64("min-channel-sat", 0, "smaller channels are refused")
	flag.Parse()
	if err := run(*address, *cert, *macaroon, lnwire.MilliSatoshi(*failMsat), btcutil.Amount(*minSat)); err != nil {
		fmt.Fprintln(os.Stderr, "lndclientprogram:", err)
		os.Exit(1)
	}
}

func run(address, cert, macaroon string, failMsat lnwire.MilliSatoshi, minSat btcutil.Amount) error {
	lnd, err := lndclient.NewLndServices(&lndclient.LndServicesConfig{
		LndAddress: address, Network: lndclient.NetworkRegtest, CustomMacaroonPath: macaroon, TLSPath: cert,
		BlockUntilUnlocked: true,
	})
	if err != nil {
		return err
	}
	defer lnd.Close()
	fmt.Println("connected to", lnd.NodePubkey, lnd.Version.Version)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	refused, err := lnd.Client.ChannelAcceptor(ctx, 3*time.Second, func(_ context.Context, r *lndclient.AcceptorRequest) (*lndclient.AcceptorResponse, error) {
		fmt.Println("channel", int64(r.FundingAmt))
		if r.FundingAmt < minSat {
			return &lndclient.AcceptorResponse{Error: "too small for the program"}, nil
		}
		return &lndclient.AcceptorResponse{Accept: true}, nil
	})
	if err != nil {
		return err
	}
	go func() {
		fmt.Println("channel acceptor ended:", <-refused)
		cancel()
	}()
	return lnd.Router.InterceptHtlcs(ctx, func(_ context.Context, h lndclient.InterceptedHtlc) (*lndclient.InterceptedHtlcResponse, error) {
		fmt.Println("forward", uint64(h.AmountOutMsat))
		if h.AmountOutMsat == failMsat {
			return &lndclient.InterceptedHtlcResponse{Action: lndclient.InterceptorActionFail}, nil
		}
		return &lndclient.InterceptedHtlcResponse{Action: lndclient.InterceptorActionResume}, nil
	})
}
