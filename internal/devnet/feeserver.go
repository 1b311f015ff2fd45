package devnet

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// DefaultFeeRateSatPerVByte is what the network's fee source says at start.
const DefaultFeeRateSatPerVByte = 2

// FeeServer answers lnd's `--fee.url` with a rate that tests change. On regtest
// lnd keeps no cache of the answer, so its next estimate uses the new rate.
type FeeServer struct {
	listener net.Listener
	server   *http.Server
	rate     atomic.Uint32
	down     atomic.Bool
	served   atomic.Int64
}

func startFeeServer() (*FeeServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &FeeServer{listener: listener}
	f.rate.Store(DefaultFeeRateSatPerVByte)
	f.server = &http.Server{Handler: http.HandlerFunc(f.answer), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = f.server.Serve(listener) }()
	return f, nil
}

// feeAnswer is what lnd reads from its fee.url, in sat per kvB.
type feeAnswer struct {
	ByBlockTarget map[string]uint32 `json:"fee_by_block_target"`
	MinRelay      uint32            `json:"min_relay_feerate"`
}

func (f *FeeServer) answer(w http.ResponseWriter, _ *http.Request) {
	if f.down.Load() {
		http.Error(w, "the fee source is down", http.StatusServiceUnavailable)
		return
	}
	satPerKVByte := f.rate.Load() * 1000
	w.Header().Set("Content-Type", "application/json")
	answer := feeAnswer{ByBlockTarget: make(map[string]uint32), MinRelay: 1000}
	for _, blocks := range []string{"1", "2", "6", "144", "1008"} {
		answer.ByBlockTarget[blocks] = satPerKVByte
	}
	_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // lnd hung up: there is nobody to tell
	f.served.Add(1)
}

// URL is the value for lnd's --fee.url.
func (f *FeeServer) URL() string { return "http://" + f.listener.Addr().String() + "/fees.json" }

// SetSatPerVByte changes the rate for every confirmation target.
func (f *FeeServer) SetSatPerVByte(rate uint32) { f.rate.Store(rate) }

// SetDown makes the server answer 503, as a broken fee source does.
func (f *FeeServer) SetDown(down bool) { f.down.Store(down) }

// Served counts the answers given since the start.
func (f *FeeServer) Served() int64 { return f.served.Load() }

func (f *FeeServer) close() error {
	err := f.server.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
