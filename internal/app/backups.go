package app

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	backupsengine "github.com/sluice-lsp/sluice/backupsvc/engine"
	backupsstore "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/store"
)

// BackupsConfig is what the vault allows and keeps.
type BackupsConfig struct {
	QuotaBytes    config.ByteSize `toml:"quota_bytes" help:"what one identity may store, without past values" min:"1KiB"`
	QuotaObjects  int64           `toml:"quota_objects" help:"objects that one identity may store" min:"1"`
	ObjectBytes   config.ByteSize `toml:"object_bytes" help:"largest value" min:"1KiB" max:"256MiB"`
	DayWrites     int64           `toml:"day_writes" help:"items that one identity may write in a day (UTC)" min:"1"`
	DayBytes      config.ByteSize `toml:"day_bytes" help:"what one identity may write in a day" min:"1KiB"`
	HistoryBytes  config.ByteSize `toml:"history_bytes" help:"past values kept for one identity, for export only; beyond it the oldest go" min:"1KiB"`
	KeepVersions  int             `toml:"keep_versions" help:"past values kept of each key" min:"0" max:"1000"`
	KeepDays      int             `toml:"keep_days" help:"days of which the last value of each is kept as well; what was deleted goes after them" min:"0" max:"3650"`
	LogEntries    int64           `toml:"log_entries" help:"entries of an identity's log that can be shown" min:"1000"`
	MaxIdentities int64           `toml:"max_identities" help:"with so many nobody new is let in" min:"1"`
	MaxBytes      config.ByteSize `toml:"max_bytes" help:"with so much stored, past values included, nobody new is let in; with twice as much nothing may grow" min:"1MiB"`
	NewPerHour    int             `toml:"new_per_hour" help:"identities that may be new in an hour" min:"1"`
	NewPerAddress int             `toml:"new_per_address_per_hour" help:"how many of them from one address" min:"1"`
	Rate          auth.Rate       `toml:"rate" help:"calls of each identity, reads and writes"`
	VSS           VSSConfig       `toml:"vss" help:"the protocol VSS, for wallets that speak it"`
}

// VSSConfig is how the vault speaks VSS.
type VSSConfig struct {
	Listen     string          `toml:"listen" help:"host:port for VSS over HTTPS, below the path /vss; empty turns it off"`
	Signatures bool            `toml:"signatures" help:"admit wallets by VSS's signature over the time; whoever sees such a header can use it for clock_window"`
	Window     config.Duration `toml:"clock_window" help:"how far a signature's time may be from ours" min:"1m" max:"1d"`
	TokenKey   string          `toml:"token_key_file" help:"path of the PEM file with the RSA public key that tokens (JWT, RS256) are signed for; empty admits no tokens"`
	MaxBody    config.ByteSize `toml:"max_body" help:"largest request" min:"64KiB" max:"1GiB"`
	MaxBodies  config.ByteSize `toml:"max_bodies" help:"requests in memory at once, in bytes" min:"64KiB"`
}

func defaultBackups() BackupsConfig {
	b := backupsengine.Defaults()
	return BackupsConfig{
		QuotaBytes: config.ByteSize(b.Quota.Bytes), QuotaObjects: b.Quota.Objects, ObjectBytes: config.ByteSize(b.Quota.ObjectBytes),
		DayWrites: b.Quota.DayWrites, DayBytes: config.ByteSize(b.Quota.DayBytes), HistoryBytes: config.ByteSize(b.Quota.HistoryBytes),
		KeepVersions: b.Retention.Versions, KeepDays: b.Retention.Days, LogEntries: b.LogEntries,
		MaxIdentities: b.MaxIdentities, MaxBytes: config.ByteSize(b.MaxBytes), NewPerHour: b.NewPerHour, NewPerAddress: b.NewPerAddress,
		Rate: b.Rate,
		VSS: VSSConfig{
			Signatures: true, Window: config.Duration(24 * time.Hour), MaxBody: config.ByteSize(32 << 20), MaxBodies: config.ByteSize(256 << 20),
		},
	}
}

func (c BackupsConfig) engine() backupsengine.Config {
	out := backupsengine.Defaults()
	out.Quota = vault.Quota{
		Bytes: int64(c.QuotaBytes), Objects: c.QuotaObjects, ObjectBytes: int64(c.ObjectBytes),
		DayWrites: c.DayWrites, DayBytes: int64(c.DayBytes), HistoryBytes: int64(c.HistoryBytes),
	}
	out.Retention = vault.Retention{Versions: c.KeepVersions, Days: c.KeepDays}
	out.LogEntries, out.MaxIdentities, out.MaxBytes = c.LogEntries, c.MaxIdentities, int64(c.MaxBytes)
	out.NewPerHour, out.NewPerAddress, out.Rate = c.NewPerHour, c.NewPerAddress, c.Rate
	return out
}

// Validate implements config.Validator.
func (c BackupsConfig) Validate() error {
	if err := c.engine().Validate(); err != nil {
		return err
	}
	if c.VSS.Listen == "" {
		return nil
	}
	if !c.VSS.Signatures && c.VSS.TokenKey == "" {
		return errors.New("vss admits nobody: turn signatures on, or set token_key_file")
	}
	if c.VSS.MaxBodies < c.VSS.MaxBody {
		return errors.New("vss.max_bodies is less than vss.max_body")
	}
	return nil
}

// nodeSigner has the gateway's node sign a text, as lnd's SignMessage does.
type nodeSigner interface {
	SignMessage(ctx context.Context, msg []byte) (string, error)
}

// newBackups makes the vault ready to run. It needs no lease: every write is
// decided in its own transaction, so that all replicas may serve.
func (d *Daemon) newBackups(ctx context.Context, sign nodeSigner) error {
	secret, err := d.receiptKey(ctx)
	if err != nil {
		return err
	}
	signer, err := vault.NewSigner(secret)
	if err != nil {
		return fmt.Errorf("%s: %w", fileReceiptKey, err)
	}
	begin := backupsstore.Epoch
	if d.restored.Backups {
		// What was acknowledged since the copy is gone. Clients must hear it from
		// us, or what they know would prove us dishonest.
		begin = backupsstore.BeginEpoch
	}
	epoch, err := begin(ctx, d.db, rand.Reader)
	if err != nil {
		return err
	}
	if d.restored.Backups {
		if err := d.acceptRestore(ctx, backupsapi.Name); err != nil {
			return err
		}
		d.log.Error("the vault's log went back with the database: every receipt from now on says so, and wallets store again what they miss", zap.String("epoch", hex.EncodeToString(epoch[:])))
	}
	d.vault, err = backupsengine.New(backupsengine.Options{
		DB: d.db, Signer: signer, Epoch: epoch, Config: d.cfg.Backups.engine(), Binding: d.bindReceipts(ctx, signer.Key(), sign), Now: d.now, Log: d.log.Named(backupsapi.Name),
		Wrote: func() {
			select {
			case d.wrote <- struct{}{}:
			default: // it is known already
			}
		},
	})
	if err != nil {
		return err
	}
	if err := d.registry.Register(d.vault.Collector()); err != nil {
		return fmt.Errorf("the vault's metrics: %w", err)
	}
	return nil
}

// bindReceipts has lnd sign the key of receipts, so that what it signs is the
// node's own word. Without it wallets keep the key at first sight.
func (d *Daemon) bindReceipts(ctx context.Context, key vault.ServerKey, sign nodeSigner) string {
	binding, err := sign.SignMessage(ctx, []byte(vault.BindingText(key)))
	if err != nil {
		d.log.Warn("lnd did not sign the key of backup receipts: wallets cannot see that it is this node's; bake the macaroon anew (`sluiced macaroon`)", zap.Error(err))
	}
	return binding
}

// runBackups serves the vault until ctx ends.
func (d *Daemon) runBackups(ctx context.Context, group *errgroup.Group, certificate *tls.Config) error {
	web, err := d.listenVSS(ctx, certificate)
	if err != nil {
		return err
	}
	if web != nil {
		group.Go(func() error { return web.Run(ctx) })
	}
	group.Go(func() error { return d.vault.Run(ctx) })
	d.backups.Ready(d.vault)
	return nil
}

// listenVSS opens VSS's port; nil when it is off.
func (d *Daemon) listenVSS(ctx context.Context, certificate *tls.Config) (*rpcserver.Web, error) {
	c := d.cfg.Backups.VSS
	if c.Listen == "" {
		return nil, nil
	}
	key, err := tokenKey(c.TokenKey)
	if err != nil {
		return nil, err
	}
	log := d.log.Named("vss")
	handler, err := vss.New(vss.Config{
		Vault: d.vault, Verifier: vss.Verifier{Signatures: c.Signatures, Window: c.Window.Std(), TokenKey: key, Now: d.now},
		MaxBody: int64(c.MaxBody), MaxBodies: int64(c.MaxBodies), Strangers: d.cfg.Limits.Address, Tracked: d.cfg.Limits.Tracked, Now: d.now, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return rpcserver.ListenWeb(ctx, rpcserver.WebConfig{What: "VSS", Address: c.Listen, TLS: certificate, Handler: handler, Log: log})
}

func tokenKey(path string) (*rsa.PublicKey, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("backups.vss.token_key_file: %w", err)
	}
	key, err := vss.ParseTokenKey(text)
	if err != nil {
		return nil, fmt.Errorf("backups.vss.token_key_file %s: %w", path, err)
	}
	return key, nil
}

// receiptKey is the secret that receipts are signed with: a file of this
// machine, outside of what a dump of the database shows, or for replicas a row
// of their shared database.
func (d *Daemon) receiptKey(ctx context.Context) ([]byte, error) {
	if d.db.Engine() == store.Postgres {
		return backupsstore.SharedKey(ctx, d.db, rand.Reader)
	}
	secret, err := keyFile(d.path(fileReceiptKey))
	if err != nil {
		return nil, fmt.Errorf("receipt key: %w", err)
	}
	return secret, nil
}

// keyFile reads a secret of this machine, making it at first.
func keyFile(path string) ([]byte, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	text, err := config.SecretFile(path).ReadLine()
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: bring it back from your copy, or move it away, which gives everybody a new key to learn: %w", path, err)
	}
	return secret, nil
}

// makeKey writes a new secret in one step: a crash leaves the whole file or none.
func makeKey(path string) (err error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(hex.EncodeToString(secret) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
