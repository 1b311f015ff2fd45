//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
)

// clocksAreWrong: wallets whose clocks are a day ahead or behind log in and store.
func (k *keeper) clocksAreWrong(ctx context.Context, net *devnet.Standard) {
	t := k.t
	for _, wrong := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		honest := k.api
		k.api = k.login(net, func() time.Time { return time.Now().Add(wrong) })
		_, err := k.put(ctx, fmt.Sprint("a clock wrong by ", wrong), 0, "stored")
		require.NoError(t, err)
		k.api = honest
	}
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	out := make([]byte, n)
	_, err := rand.Read(out)
	require.NoError(t, err)
	return out
}

// upload sends a value in pieces, and calls half-way before it goes on.
func (k *keeper) upload(ctx context.Context, key string, version int64, value []byte, halfWay func()) (vault.Receipt, error) {
	stream, err := k.api.Upload(ctx)
	if err != nil {
		return vault.Receipt{}, err
	}
	sum := vault.ContentHash(value)
	m := &backupsv1.UploadRequest{StoreId: "s", Key: key, Version: version, Size: int64(len(value)), ContentSha256: sum[:]}
	const piece = 256 << 10
	for at := 0; at < len(value); at += piece {
		if halfWay != nil && at >= len(value)/2 {
			halfWay()
			halfWay = nil
		}
		m.Piece = value[at:min(at+piece, len(value))]
		if err := stream.Send(m); err != nil {
			break // the answer says why
		}
		m = &backupsv1.UploadRequest{}
	}
	got, err := stream.CloseAndRecv()
	if err != nil {
		return vault.Receipt{}, err
	}
	receipt, err := backupsapi.ReceiptFromWire(got.GetReceipt())
	return receipt, errors.Join(err, receipt.Verify())
}

func (k *keeper) download(ctx context.Context, key string) ([]byte, error) {
	stream, err := k.api.Download(ctx, &backupsv1.DownloadRequest{StoreId: "s", Key: key, Nonce: make([]byte, vault.NonceSize)})
	if err != nil {
		return nil, err
	}
	var value []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return value, nil
		}
		if err != nil {
			return nil, err
		}
		value = append(value, m.GetPiece()...)
	}
}

// losesUpload kills sluiced in the middle of an upload: nothing of it is there,
// what was there before is served, and the same upload succeeds afterwards.
func (k *keeper) losesUpload(ctx context.Context) {
	t := k.t
	first, second := random(t, 6<<20), random(t, 6<<20)
	before, err := k.put(ctx, "before the upload", 0, "x")
	require.NoError(t, err)
	kill := func() { require.NoError(t, k.s.Kill()) }
	_, err = k.upload(ctx, "large", 0, first, kill)
	require.Error(t, err)
	require.NoError(t, k.s.Start(ctx))
	_, verdict := k.head(ctx, before.Head.Head)
	require.Equal(t, vault.Same, verdict)
	_, err = k.download(ctx, "large")
	require.Equal(t, codes.NotFound, status.Code(err))
	stored, err := k.upload(ctx, "large", 0, first, nil)
	require.NoError(t, err)

	_, err = k.upload(ctx, "large", 1, second, kill)
	require.Error(t, err)
	require.NoError(t, k.s.Start(ctx))
	_, verdict = k.head(ctx, stored.Head.Head)
	require.Equal(t, vault.Same, verdict)
	got, err := k.download(ctx, "large")
	require.NoError(t, err)
	require.Equal(t, vault.ContentHash(first), vault.ContentHash(got))
	_, err = k.upload(ctx, "large", 1, second, nil)
	require.NoError(t, err)
	got, err = k.download(ctx, "large")
	require.NoError(t, err)
	require.Equal(t, vault.ContentHash(second), vault.ContentHash(got))
}

// dump copies the database, and the file that knows how old it is, while sluiced
// is stopped.
func (k *keeper) dump(ctx context.Context, to string) {
	t := k.t
	require.NoError(t, k.s.Stop(ctx))
	if k.pg != nil {
		require.NoError(t, os.MkdirAll(to, 0o700))
		require.NoError(t, k.pg.CopyDatabase(ctx, "vault", "old"))
	} else {
		copyDatabase(t, k.s.Dir, to)
	}
	copyFile(t, filepath.Join(k.s.Dir, "generation"), filepath.Join(to, "generation"))
	require.NoError(t, k.s.Start(ctx))
}

// goBack puts a dump in the database's place. quietly hides it from sluiced as
// well.
func (k *keeper) goBack(ctx context.Context, from string, quietly bool) {
	t := k.t
	require.NoError(t, k.s.Stop(ctx))
	if k.pg != nil {
		require.NoError(t, k.pg.CopyDatabase(ctx, "old", "vault"))
	} else {
		copyDatabase(t, from, k.s.Dir)
	}
	if quietly {
		copyFile(t, filepath.Join(from, "generation"), filepath.Join(k.s.Dir, "generation"))
	}
	require.NoError(t, k.s.Start(ctx))
}

// admitsRestore: an operator restores an old dump of his own. sluiced notices,
// and says so in everything that it signs.
func (k *keeper) admitsRestore(ctx context.Context) {
	t := k.t
	old := filepath.Join(t.TempDir(), "old")
	k.dump(ctx, old)
	known, err := k.put(ctx, "after the dump", 0, "lost")
	require.NoError(t, err)
	k.goBack(ctx, old, false)
	head, verdict := k.head(ctx, known.Head.Head)
	require.Equal(t, vault.Restored, verdict)
	require.Equal(t, known.Head.Seq-1, head.Seq)
	again, err := k.put(ctx, "after the dump", 0, "stored again")
	require.NoError(t, err)
	require.NoError(t, k.s.Restart(ctx))
	_, verdict = k.head(ctx, again.Head.Head)
	require.Equal(t, vault.Same, verdict, "it is admitted once")
}

// isConvicted: a server goes back and hides it. Two signatures prove it to
// anybody, in the name of the gateway's node.
func (k *keeper) isConvicted(ctx context.Context, net *devnet.Standard) {
	t := k.t
	old := filepath.Join(t.TempDir(), "old")
	k.dump(ctx, old)
	known, err := k.put(ctx, "hidden", 0, "lost")
	require.NoError(t, err)
	k.goBack(ctx, old, true)
	nonce := random(t, vault.NonceSize)
	got, err := k.api.GetHead(ctx, &backupsv1.GetHeadRequest{Nonce: nonce})
	require.NoError(t, err)
	shown, err := backupsapi.HeadFromWire(got.GetHead())
	require.NoError(t, err)
	require.NoError(t, shown.Verify())
	verdict, err := vault.Compare(known.Head.Head, shown.Head, nil)
	require.NoError(t, err)
	require.Equal(t, vault.RolledBack, verdict)
	server, err := k.api.GetServer(ctx, &backupsv1.GetServerRequest{})
	require.NoError(t, err)
	evidence := recovery.Evidence{
		Verdict: verdict, Provider: "gateway", Node: net.Gateway.PubKey, Binding: server.GetBinding(),
		Known: recovery.FromSigned(known.Head), Shown: recovery.FromSigned(shown),
	}
	said, err := evidence.Verify(auth.RecoverSigner)
	require.NoError(t, err)
	require.Contains(t, said, "the node "+net.Gateway.PubKey+" acknowledged entry")
	evidence.Known, evidence.Shown = evidence.Shown, evidence.Known
	_, err = evidence.Verify(auth.RecoverSigner)
	require.Error(t, err)
}

// fillsUp gives sluiced a disk of a few MiB. Once it is full nothing is
// acknowledged that is not there, what is there is served, and when there is room
// again the log goes on where it was.
func fillsUp(ctx context.Context, t *testing.T, net *devnet.Standard) {
	const name = "vault-full"
	dir := filepath.Join(net.Dir(), name)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v); TestSQLiteIsFull shows the same within a process", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	k := newKeeper(ctx, t, net, name, "")
	known, err := k.put(ctx, "first", 0, "x")
	require.NoError(t, err)
	stored := map[string]vault.Hash{}
	full := 0
	for i := range 60 {
		key, value := fmt.Sprint("value ", i), random(t, 1<<20)
		receipt, err := k.put(ctx, key, 0, string(value))
		if err == nil {
			require.Equal(t, known.Head.Hash, receipt.Prev, "the log goes on from the last that was acknowledged")
			known, stored[key] = receipt, vault.ContentHash(value)
			continue
		}
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		if full++; full == 5 {
			break
		}
	}
	require.Equal(t, 5, full, "the disk is not full after %d MiB", len(stored))
	require.NotEmpty(t, stored)
	check := func(when string) {
		_, verdict := k.head(ctx, known.Head.Head)
		require.Equal(t, vault.Same, verdict, when)
		for key, content := range stored {
			value, err := k.download(ctx, key)
			require.NoError(t, err, when)
			require.Equal(t, content, vault.ContentHash(value), when)
		}
	}
	check("while the disk is full")
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=96m"))
	known, err = k.put(ctx, "room again", 0, "y")
	require.NoError(t, err)
	check("with room again")
	require.NoError(t, k.s.Kill())
	require.NoError(t, k.s.Start(ctx))
	check("after kill -9")
}
