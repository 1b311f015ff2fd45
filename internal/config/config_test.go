package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
)

type peer struct {
	Node   ln.PubKey  `toml:"node" required:"true" help:"the peer's key"`
	MaxSat config.Sat `toml:"max_sat" help:"largest channel" min:"20_000"`
	Tags   []string   `toml:"tags" help:"words"`
	Limits peerLimits `toml:"limits" help:"more"`
}

type peerLimits struct {
	PerHour int             `toml:"per_hour" max:"100"`
	Wait    config.Duration `toml:"wait"`
}

type sample struct {
	Network string            `toml:"network" help:"which chain" oneof:"regtest|mainnet"`
	Secret  config.SecretFile `toml:"secret_file" help:"path of a secret"`
	LSP     lspConfig         `toml:"lsp" help:"on-demand channels"`
	Peers   []peer            `toml:"peers" help:"one table for each peer"`
	hidden  int               //nolint:unused // shows that what has no key is left alone
	NoKey   int
}

type lspConfig struct {
	MaxOpen  int             `toml:"max_open" help:"opens at once" min:"1" max:"50"`
	CapSat   config.Sat      `toml:"cap_sat" help:"all channels"`
	FeeMsat  config.Msat     `toml:"fee_msat" help:"least fee"`
	Timeout  config.Duration `toml:"timeout" help:"how long" min:"1s" max:"1d"`
	Body     config.ByteSize `toml:"body" help:"how much"`
	Ratio    float64         `toml:"ratio" help:"part"`
	Enabled  bool            `toml:"enabled" help:"whether"`
	Services []string        `toml:"services" help:"names"`
}

func (c lspConfig) Validate() error {
	if c.FeeMsat.Amount() > ln.Msat(c.CapSat)*1000 {
		return errors.New("fee_msat is more than cap_sat")
	}
	return nil
}

func defaults() *sample {
	return &sample{
		Network: "regtest",
		LSP: lspConfig{
			MaxOpen: 5, CapSat: 10_000_000, FeeMsat: 2_000_000, Timeout: config.Duration(90 * time.Second),
			Body: 4 << 20, Ratio: 0.25, Enabled: true, Services: []string{"lsp"},
		},
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestPrecedence(t *testing.T) {
	path := write(t, "[lsp]\nmax_open = 6\ncap_sat = 20_000_000\ntimeout = \"2m\"\nservices = [\"a\", \"b\"]\n")
	cfg := defaults()
	require.NoError(t, config.Load(config.Source{
		Path:        path,
		Env:         []string{"PATH=/bin", "SLUICE_CONFIG=x", "SLUICE_LSP_MAX_OPEN=7", "SLUICE_LSP_CAP_SAT=30_000_000", "SLUICE_LSP_BODY=64KiB"},
		NotSettings: []string{"SLUICE_CONFIG"},
		Flags:       map[string]string{"lsp.max_open": "8", "lsp.enabled": "false", "lsp.services": "x,y,z"},
	}, cfg))
	require.Equal(t, 8, cfg.LSP.MaxOpen, "flag over environment")
	require.Equal(t, ln.Sat(30_000_000), cfg.LSP.CapSat.Amount(), "environment over file")
	require.Equal(t, 2*time.Minute, cfg.LSP.Timeout.Std(), "file over default")
	require.Equal(t, ln.Msat(2_000_000), cfg.LSP.FeeMsat.Amount(), "default")
	require.Equal(t, config.ByteSize(65536), cfg.LSP.Body)
	require.False(t, cfg.LSP.Enabled)
	require.Equal(t, []string{"x", "y", "z"}, cfg.LSP.Services)
}

func TestFileListReplacesDefault(t *testing.T) {
	cfg := defaults()
	require.NoError(t, config.Load(config.Source{Path: write(t, "[lsp]\nservices = []\n")}, cfg))
	require.Empty(t, cfg.LSP.Services)
}

func TestTables(t *testing.T) {
	key := "02" + strings.Repeat("ab", 32)
	cfg := defaults()
	require.NoError(t, config.Load(config.Source{Path: write(t, "[[peers]]\nnode = \""+key+"\"\nmax_sat = 50000\n[[peers]]\nnode = \""+key+"\"\nmax_sat = 60000\nlimits.per_hour = 3\n")}, cfg))
	require.Len(t, cfg.Peers, 2)
	require.Equal(t, key, cfg.Peers[0].Node.String())
	require.Equal(t, 3, cfg.Peers[1].Limits.PerHour)
}

func TestErrorsNameKeyAndRemedy(t *testing.T) {
	key := "02" + strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		file string
		env  []string
		set  map[string]string
		want []string
	}{
		"misspelt key":       {file: "network = \"regtest\"\n[lsp]\nmax_opn = 3\n", want: []string{"line 3", `unknown key "lsp.max_opn"`, `did you mean "lsp.max_open"?`}},
		"wrong section":      {file: "per_hour = 3\n", want: []string{`unknown key "per_hour"`, "peers.limits.per_hour"}},
		"strange key":        {file: "zzzzzzzzzzzz = 3\n", want: []string{`unknown key "zzzzzzzzzzzz"`, "sample"}},
		"every unknown key":  {file: "netwrk = 1\n[lsp]\nbdy = 2\n", want: []string{"netwrk", "lsp.bdy"}},
		"misspelt in table":  {file: "[[peers]]\nnod = \"x\"\n", want: []string{`"peers.nod"`, `"peers.node"`}},
		"misspelt in env":    {env: []string{"SLUICE_LSP_MAX_OPN=1"}, want: []string{"SLUICE_LSP_MAX_OPN", "SLUICE_LSP_MAX_OPEN"}},
		"misspelt flag":      {set: map[string]string{"lsp.tiemout": "1s"}, want: []string{"--set", "lsp.tiemout", "lsp.timeout"}},
		"section as flag":    {set: map[string]string{"lsp": "1s"}, want: []string{"--set", `"lsp"`}},
		"bad env value":      {env: []string{"SLUICE_LSP_MAX_OPEN=many"}, want: []string{"SLUICE_LSP_MAX_OPEN", "many", "whole number"}},
		"table in env":       {env: []string{"SLUICE_PEERS=x"}, want: []string{"SLUICE_PEERS", "file"}},
		"no unit":            {file: "[lsp]\ntimeout = \"90\"\n", want: []string{"lsp.timeout", "unit"}},
		"duration as number": {file: "[lsp]\ntimeout = 90\n", want: []string{"lsp.timeout is 90", "unit", `"90s"`}},
		"number, other case": {file: "[LSP]\nTimeout = 90\n", want: []string{"lsp.timeout is 90", "unit"}},
		"size as number":     {file: "lsp.body = 90\n", want: []string{"lsp.body is 90", "unit"}},
		"negative duration":  {file: "[lsp]\ntimeout = \"-3s\"\n", want: []string{"unit"}},
		"too low":            {file: "[lsp]\nmax_open = 0\n", want: []string{"lsp.max_open is 0", "at least 1"}},
		"too high":           {file: "[lsp]\nmax_open = 51\n", want: []string{"lsp.max_open", "at most 50"}},
		"too long":           {file: "[lsp]\ntimeout = \"25h\"\n", want: []string{"lsp.timeout", "at most 1d"}},
		"not one of":         {file: "network = \"testnet\"\n", want: []string{"network", "testnet", "regtest, mainnet"}},
		"too much money":     {file: "[lsp]\ncap_sat = 2_100_000_000_000_001\n", want: []string{"satoshis"}},
		"negative money":     {file: "[lsp]\ncap_sat = -1\n", want: []string{"line 2"}},
		"size without unit":  {file: "[lsp]\nbody = \"12\"\n", want: []string{"unit"}},
		"two together":       {file: "[lsp]\ncap_sat = 1\n", want: []string{"lsp: fee_msat is more than cap_sat"}},
		"missing in table":   {file: "[[peers]]\nmax_sat = 30000\n", want: []string{"peers[0].node is required"}},
		"low in table":       {file: "[[peers]]\nnode = \"" + key + "\"\nmax_sat = 3\n", want: []string{"peers[0].max_sat"}},
		"unit in table":      {file: "[[peers]]\nlimits.wait = 3\n", want: []string{"peers.limits.wait is 3", "unit"}},
		"not TOML":           {file: "[lsp\n", want: []string{"line 1"}},
		"two errors at once": {file: "network = \"x\"\n[lsp]\nmax_open = 0\n", want: []string{"network", "lsp.max_open"}},
	} {
		t.Run(name, func(t *testing.T) {
			src := config.Source{Env: c.env, Flags: c.set}
			if c.file != "" {
				src.Path = write(t, c.file)
			}
			err := config.Load(src, defaults())
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
	require.ErrorContains(t, config.Load(config.Source{Path: "/does/not/exist"}, defaults()), "configuration file")
	require.ErrorContains(t, config.Load(config.Source{}, sample{}), "pointer to a struct")
}

func TestClashingEnvNamesAreFound(t *testing.T) {
	var clash struct {
		A struct {
			BC int `toml:"b_c"`
		} `toml:"a"`
		AB struct {
			C int `toml:"c"`
		} `toml:"a_b"`
	}
	require.ErrorContains(t, config.Load(config.Source{}, &clash), "SLUICE_A_B_C")
}

// The sample must say exactly the defaults: with every setting uncommented it
// loads to what it was made from.
func TestSampleIsTheDefaults(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, config.Sample(&out, "Sample for tests.\n\nSecond line.", defaults()))
	text := out.String()
	require.Contains(t, text, "## Sample for tests.\n##\n## Second line.\n")
	require.Contains(t, text, "## opens at once\n## (at least 1; at most 50)\n# max_open = 5\n")
	require.Contains(t, text, "# cap_sat = 10_000_000\n")
	require.Contains(t, text, "## (none by default; each has this form)\n# [[peers]]\n")

	asIs := defaults()
	require.NoError(t, config.Decode("sample", out.Bytes(), asIs))
	require.Equal(t, defaults(), asIs)

	settings, _, _ := strings.Cut(text, "# [[peers]]")
	var loaded sample
	require.NoError(t, config.Decode("sample", []byte(regexp.MustCompile(`(?m)^# `).ReplaceAllString(settings, "")), &loaded))
	require.Equal(t, *defaults(), loaded)

	var withTable sample
	require.NoError(t, config.Decode("sample", []byte(regexp.MustCompile(`(?m)^# `).ReplaceAllString(text, "")), &withTable))
	require.Len(t, withTable.Peers, 1)

	// Entries that hold by default stand there, and one of the operator's replaces them.
	listed := defaults()
	listed.Peers = []peer{{MaxSat: 1_000_000, Limits: peerLimits{PerHour: 3}}, {MaxSat: 2_000_000, Tags: []string{"a"}}}
	out.Reset()
	require.NoError(t, config.Sample(&out, "Lists.", listed))
	require.NotContains(t, out.String(), "none by default")
	require.Equal(t, 1, strings.Count(out.String(), "## largest channel"), "help stands once")
	again := defaults()
	require.NoError(t, config.Decode("sample", []byte(regexp.MustCompile(`(?m)^# `).ReplaceAllString(out.String(), "")), again))
	require.Len(t, again.Peers, 2)
	require.Equal(t, listed.Peers[0].MaxSat, again.Peers[0].MaxSat)
	require.Equal(t, listed.Peers[0].Limits, again.Peers[0].Limits)
	require.Equal(t, listed.Peers[1].Tags, again.Peers[1].Tags)
	require.NoError(t, config.Decode("mine", []byte("[[peers]]\nmax_sat = 50_000\n"), listed))
	require.Len(t, listed.Peers, 1)
	require.Equal(t, config.Sat(50_000), listed.Peers[0].MaxSat)
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("s3cret\n"), 0o600))
	line, err := config.SecretFile(path).ReadLine()
	require.NoError(t, err)
	require.Equal(t, "s3cret", line)

	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		require.NoError(t, os.Chmod(path, mode))
		_, err = config.SecretFile(path).Read()
		require.ErrorContains(t, err, "chmod 600")
		require.NotContains(t, err.Error(), "s3cret")
	}
	_, err = config.SecretFile(t.TempDir()).Read()
	require.ErrorContains(t, err, "regular")
	_, err = config.SecretFile("").Read()
	require.Error(t, err)
}

func TestTextFormsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := config.Duration(rapid.Int64Min(0).Draw(t, "d"))
		var d2 config.Duration
		require.NoError(t, d2.UnmarshalText([]byte(d.String())))
		require.Equal(t, d, d2)
		b := config.ByteSize(rapid.Int64Min(0).Draw(t, "b"))
		var b2 config.ByteSize
		require.NoError(t, b2.UnmarshalText([]byte(b.String())))
		require.Equal(t, b, b2)
	})
	for _, bad := range []string{"", "d", "-1d", "9999999999d", "1.5d", "1", "x"} {
		require.Error(t, new(config.Duration).UnmarshalText([]byte(bad)), bad)
	}
	for _, bad := range []string{"", "B", "-1B", "9999999999999GiB", "1.5MiB", "1", "1MB"} {
		require.Error(t, new(config.ByteSize).UnmarshalText([]byte(bad)), bad)
	}
}

// Whatever a file holds: an error or a valid configuration, never a panic,
// and never a value outside its bounds.
func FuzzLoad(f *testing.F) {
	f.Add("network = \"regtest\"\n[lsp]\nmax_open = 3\n", "SLUICE_LSP_TIMEOUT=3s", "lsp.ratio", "0.5")
	f.Add("[[peers]]\nnode = \"02\"\n", "SLUICE_=", "", "")
	f.Add("lsp = 3", "SLUICE_LSP_CAP_SAT=1", "peers", "x")
	f.Fuzz(func(t *testing.T, file, env, key, value string) {
		cfg := defaults()
		if err := config.Decode("fuzz", []byte(file), cfg); err != nil {
			return
		}
		if err := config.Load(config.Source{Env: []string{env}, Flags: map[string]string{key: value}}, cfg); err != nil {
			return
		}
		require.NoError(t, config.Validate(cfg))
		require.True(t, cfg.LSP.MaxOpen >= 1 && cfg.LSP.MaxOpen <= 50)
		require.LessOrEqual(t, cfg.LSP.CapSat.Amount(), ln.MaxMsat.ToSatFloor())
		require.GreaterOrEqual(t, cfg.LSP.Timeout.Std(), time.Second)
	})
}
