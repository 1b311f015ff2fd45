package obs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogConfig says what is logged, how and where to.
type LogConfig struct {
	Level  string `toml:"level" help:"debug, info, warn or error" oneof:"debug|info|warn|error"`
	Format string `toml:"format" help:"console for people, json for programs" oneof:"console|json"`
	File   string `toml:"file" help:"file to append to; empty means standard error. Rotate it with copytruncate."`
}

// DefaultLogConfig suits a daemon under systemd.
func DefaultLogConfig() LogConfig { return LogConfig{Level: "info", Format: "console"} }

// NewLogger makes a logger and the function that flushes and closes it.
func NewLogger(cfg LogConfig) (*zap.Logger, func() error, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("log level %q: use debug, info, warn or error", cfg.Level)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	enc.TimeKey = "time"
	var encoder zapcore.Encoder
	switch cfg.Format {
	case "json":
		encoder = zapcore.NewJSONEncoder(enc)
	case "console":
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02 15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	default:
		return nil, nil, fmt.Errorf("log format %q: use console or json", cfg.Format)
	}
	sink, closeSink, err := openSink(cfg.File)
	if err != nil {
		return nil, nil, err
	}
	return zap.New(zapcore.NewCore(encoder, sink, level)), closeSink, nil
}

func openSink(path string) (zapcore.WriteSyncer, func() error, error) {
	if path == "" {
		return zapcore.Lock(os.Stderr), func() error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("log file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("log file: %w", err)
	}
	sink := zapcore.Lock(f)
	return sink, func() error {
		if err := sink.Sync(); err != nil {
			return fmt.Errorf("log file: %w", err)
		}
		return f.Close()
	}, nil
}

// Secret is bytes that must not be read by whoever reads a log: it prints,
// formats, logs and marshals as the prefix of its hash, which tells two
// secrets apart. Use it for keys and tokens, which cannot be guessed from the
// prefix; a password could, and is not to be logged at all.
type Secret []byte

// Hint is what a Secret prints as.
func (s Secret) Hint() string {
	if len(s) == 0 {
		return "(none)"
	}
	sum := sha256.Sum256(s)
	return "secret-" + hex.EncodeToString(sum[:4])
}

func (s Secret) String() string { return s.Hint() }

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return s.Hint() }

// Format keeps every verb, %x and %d among them, from printing the secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.Hint())) }

// MarshalText keeps encoders from printing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.Hint()), nil }

// Reveal gives the secret itself; the name marks every place that handles it.
func (s Secret) Reveal() []byte { return append([]byte(nil), s...) }

// SecretField logs a secret's hint.
func SecretField(key string, secret []byte) zap.Field { return zap.String(key, Secret(secret).Hint()) }
