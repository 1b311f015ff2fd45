package vault_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

func epoch() vault.Epoch { return vault.Epoch{1, 2, 3} }

// write decides a write and gives its receipt and the account after it.
func write(t testing.TB, acc vault.Account, held map[string]vault.Held, w vault.Write) (vault.Account, vault.Receipt) {
	t.Helper()
	plan, err := vault.Decide(acc, held, w, wide(), noon())
	require.NoError(t, err)
	r, err := signer(t).Receipt(plan, epoch(), noon())
	require.NoError(t, err)
	return plan.Account, r
}

func two(t testing.TB) (vault.Account, vault.Receipt) {
	t.Helper()
	return write(t, account(t), nil, vault.Write{Store: "s", Puts: []vault.Item{item("a", 0, "one"), item("b", -1, "two")}})
}

// TestReceiptVector holds the format that docs/backups.md describes: whoever
// changes it breaks every receipt that was ever given.
func TestReceiptVector(t *testing.T) {
	_, r := two(t)
	require.NoError(t, r.Verify())
	require.Equal(t, "989c0b76cb563971fdc9bef31ec06c3560f3249d6ee9e5d83c57625596e05f6f", hex.EncodeToString(r.Head.Server[:]))
	require.Equal(t, vectorPrev, hex.EncodeToString(r.Prev[:]))
	require.Equal(t, vectorHead, hex.EncodeToString(r.Head.Hash[:]))
	require.Equal(t, vectorSignature, hex.EncodeToString(r.Head.Signature[:]))
	page, err := os.ReadFile("../../docs/backups.md")
	require.NoError(t, err)
	for _, vector := range []string{vectorPrev, vectorHead, vectorSignature, hex.EncodeToString(r.Head.Server[:]), strconv.FormatInt(r.Head.AtMs, 10)} {
		require.Contains(t, string(page), vector, "the vectors that people read")
	}
}

// TestEveryFieldIsSigned changes each field in turn.
func TestEveryFieldIsSigned(t *testing.T) {
	for name, change := range map[string]func(*vault.Receipt){
		"server":    func(r *vault.Receipt) { r.Head.Server[3] ^= 1 },
		"identity":  func(r *vault.Receipt) { r.Head.Identity = "sig:02ac" },
		"epoch":     func(r *vault.Receipt) { r.Head.Epoch[0]++ },
		"seq":       func(r *vault.Receipt) { r.Head.Seq++ },
		"hash":      func(r *vault.Receipt) { r.Head.Hash[0] ^= 1 },
		"time":      func(r *vault.Receipt) { r.Head.AtMs++ },
		"signature": func(r *vault.Receipt) { r.Head.Signature[40] ^= 1 },
		"nonce":     func(r *vault.Receipt) { r.Head.Nonce = make([]byte, 32) },
		"prev":      func(r *vault.Receipt) { r.Prev[0] ^= 1 },
		"entry seq": func(r *vault.Receipt) { r.Entries[0].Seq++ },
		"op":        func(r *vault.Receipt) { r.Entries[0].Op = vault.OpDelete },
		"store":     func(r *vault.Receipt) { r.Entries[0].Store = "t" },
		"key":       func(r *vault.Receipt) { r.Entries[0].Key = "c" },
		"store and key run together": func(r *vault.Receipt) {
			r.Entries[0].Store, r.Entries[0].Key = "", "sa"
		},
		"version":     func(r *vault.Receipt) { r.Entries[0].Version++ },
		"content":     func(r *vault.Receipt) { r.Entries[1].Content[0] ^= 1 },
		"size":        func(r *vault.Receipt) { r.Entries[1].Size++ },
		"entry time":  func(r *vault.Receipt) { r.Entries[1].AtMs-- },
		"order":       func(r *vault.Receipt) { r.Entries[0], r.Entries[1] = r.Entries[1], r.Entries[0] },
		"one fewer":   func(r *vault.Receipt) { r.Entries = r.Entries[:1] },
		"one more":    func(r *vault.Receipt) { r.Entries = append(r.Entries, r.Entries[1]) },
		"wrong curve": func(r *vault.Receipt) { r.Head.Server = vault.ServerKey(bytes.Repeat([]byte{0xff}, 32)) },
	} {
		_, r := two(t)
		require.NoError(t, r.Verify())
		change(&r)
		require.ErrorIs(t, r.Verify(), vault.ErrForged, name)
	}
}

func TestHeadOverNonce(t *testing.T) {
	acc, _ := two(t)
	nonce := bytes.Repeat([]byte{5}, vault.NonceSize)
	h, err := signer(t).Head(acc, epoch(), noon(), nonce)
	require.NoError(t, err)
	require.NoError(t, h.Verify())
	nonce[0]++
	require.NoError(t, h.Verify(), "the head has a copy of the nonce")
	h.Nonce = nonce
	require.ErrorIs(t, h.Verify(), vault.ErrForged)
	_, err = signer(t).Head(acc, epoch(), noon(), nonce[:31])
	require.ErrorIs(t, err, errkind.Invalid)
	_, err = signer(t).Head(acc, epoch(), noon(), nil)
	require.ErrorIs(t, err, errkind.Invalid, "a head is not a receipt")
}

func TestCompare(t *testing.T) {
	acc, r1 := two(t)
	later, r2 := write(t, acc, nil, vault.Write{Puts: []vault.Item{item("c", 0, "x")}})
	_, other := write(t, acc, nil, vault.Write{Puts: []vault.Item{item("c", 0, "y")}})
	_, r3 := write(t, later, nil, vault.Write{Puts: []vault.Item{item("d", 0, "x")}})
	between := append(append([]vault.Entry{}, r2.Entries...), r3.Entries...)
	restored := r1.Head.Head
	restored.Epoch[0]++
	for _, c := range []struct {
		name         string
		known, shown vault.Head
		entries      []vault.Entry
		want         vault.Verdict
	}{
		{"same", r1.Head.Head, r1.Head.Head, nil, vault.Same},
		{"older", r2.Head.Head, r1.Head.Head, nil, vault.RolledBack},
		{"two logs", r2.Head.Head, other.Head.Head, nil, vault.Forked},
		{"claims", r1.Head.Head, r3.Head.Head, nil, vault.Unproven},
		{"shows too little", r1.Head.Head, r3.Head.Head, r2.Entries, vault.Unproven},
		{"shows", r1.Head.Head, r3.Head.Head, between, vault.Continues},
		{"shows from another branch", other.Head.Head, r3.Head.Head, r3.Entries, vault.Disconnected},
		{"admits a restore", r2.Head.Head, restored, nil, vault.Restored},
	} {
		got, err := vault.Compare(c.known, c.shown, c.entries)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, got, c.name)
	}
	foreign := r1.Head.Head
	foreign.Identity = "sig:03"
	_, err := vault.Compare(r1.Head.Head, foreign, nil)
	require.Error(t, err)
	_, err = vault.Compare(r1.Head.Head, r3.Head.Head, r3.Entries)
	require.ErrorIs(t, err, vault.ErrForged, "a gap")
}

func TestSignerRefusesBadKeys(t *testing.T) {
	for _, bad := range [][]byte{nil, make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), make([]byte, 31)} {
		_, err := vault.NewSigner(bad)
		require.Error(t, err)
	}
}

func TestWriteTimesAreTheServersOwn(t *testing.T) {
	plan, err := vault.Decide(account(t), nil, vault.Write{Puts: []vault.Item{item("k", 0, "v")}}, wide(), noon().Add(time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, noon().UnixMilli()+1, plan.Changes[0].Entry.AtMs)
}

// TestPresent: what a log says of a key, from all of it or from a known point.
func TestPresent(t *testing.T) {
	acc := account(t)
	start := acc.Head
	var log []vault.Entry
	held := map[string]vault.Held{}
	step := func(w vault.Write) {
		plan, err := vault.Decide(acc, held, w, wide(), noon())
		require.NoError(t, err)
		acc = plan.Account
		for _, c := range plan.Changes {
			log = append(log, c.Entry)
			if c.Entry.Op == vault.OpDelete {
				delete(held, c.Entry.Key)
				continue
			}
			held[c.Entry.Key] = vault.Held{Version: c.Entry.Version, Size: c.Entry.Size, Seq: c.Entry.Seq}
		}
	}
	step(vault.Write{Store: "s", Puts: []vault.Item{item("a", 0, "one"), item("b", 0, "two")}})
	step(vault.Write{Store: "s", Puts: []vault.Item{item("a", 1, "three")}})
	middle := acc
	step(vault.Write{Store: "s", Deletes: []vault.Item{{Key: "b", Version: 1}}})
	shown := vault.Head{Server: signer(t).Key(), Identity: acc.Identity, Seq: acc.Seq, Hash: acc.Head}
	for _, c := range []struct {
		name, store, key string
		from             uint64
		value            string
		there, told      bool
	}{
		{"replaced", "s", "a", 0, "three", true, true},
		{"deleted", "s", "b", 0, "", false, true},
		{"never there", "s", "c", 0, "", false, true},
		{"in another store", "t", "a", 0, "", false, true},
		{"deleted, from the middle", "s", "b", 3, "", false, true},
		{"before the middle", "s", "a", 3, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := start
			if c.from > 0 {
				at = middle.Head
			}
			content, there, told, err := vault.Present(c.from, at, log[c.from:], shown, c.store, c.key)
			require.NoError(t, err)
			require.Equal(t, c.there, there)
			require.Equal(t, c.told, told)
			if there {
				require.Equal(t, vault.ContentHash([]byte(c.value)), content)
			}
		})
	}
	for name, entries := range map[string][]vault.Entry{"short": log[:3], "with a gap": append(log[:1:1], log[2:]...), "none": nil} {
		_, _, _, err := vault.Present(0, start, entries, shown, "s", "a")
		require.ErrorIs(t, err, vault.ErrForged, name)
	}
	other := append([]vault.Entry(nil), log...)
	other[2].Content[0] ^= 1
	_, _, _, err := vault.Present(0, start, other, shown, "s", "a")
	require.ErrorIs(t, err, vault.ErrForged)
}
