package links

import "github.com/prometheus/client_golang/prometheus"

// NewGauge shows how many channels a keeper reports as dead; the caller
// registers it. count may be asked before there is a keeper.
func NewGauge(count func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "sluice", Subsystem: "lsp", Name: "dead_channels",
		Help: "Channels that stay inactive, or active with an HTLC near its expiry that does not go, although their peer was connected anew several times.",
	}, func() float64 { return float64(count()) })
}
