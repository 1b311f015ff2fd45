package api

import (
	"fmt"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
)

// EntryToWire gives an entry's message.
func EntryToWire(e vault.Entry) *backupsv1.Entry {
	op := backupsv1.Operation_OPERATION_PUT
	if e.Op == vault.OpDelete {
		op = backupsv1.Operation_OPERATION_DELETE
	}
	return &backupsv1.Entry{
		Seq: e.Seq, Operation: op, StoreId: e.Store, Key: e.Key, Version: e.Version, ContentSha256: e.Content[:], Size: e.Size, AtMs: e.AtMs,
	}
}

// EntriesToWire gives the messages of entries.
func EntriesToWire(entries []vault.Entry) []*backupsv1.Entry {
	out := make([]*backupsv1.Entry, 0, len(entries))
	for _, e := range entries {
		out = append(out, EntryToWire(e))
	}
	return out
}

// HeadToWire gives a head's message.
func HeadToWire(h vault.SignedHead) *backupsv1.SignedHead {
	return &backupsv1.SignedHead{
		ServerKey: h.Server[:], Identity: string(h.Identity), Epoch: h.Epoch[:], Seq: h.Seq, Hash: h.Hash[:], AtMs: h.AtMs,
		Nonce: h.Nonce, Signature: h.Signature[:],
	}
}

// ReceiptToWire gives a receipt's message.
func ReceiptToWire(r vault.Receipt) *backupsv1.Receipt {
	return &backupsv1.Receipt{PrevHash: r.Prev[:], Entries: EntriesToWire(r.Entries), Head: HeadToWire(r.Head)}
}

// EntryFromWire reads an entry. Nothing is verified yet.
func EntryFromWire(m *backupsv1.Entry) (vault.Entry, error) {
	e := vault.Entry{Seq: m.GetSeq(), Store: m.GetStoreId(), Key: m.GetKey(), Version: m.GetVersion(), Size: m.GetSize(), AtMs: m.GetAtMs()}
	switch m.GetOperation() {
	case backupsv1.Operation_OPERATION_PUT:
		e.Op = vault.OpPut
	case backupsv1.Operation_OPERATION_DELETE:
		e.Op = vault.OpDelete
	case backupsv1.Operation_OPERATION_UNSPECIFIED:
		return e, fmt.Errorf("entry %d does not say what it did", e.Seq)
	default:
		return e, fmt.Errorf("entry %d did something that this version does not know", e.Seq)
	}
	// Lengths are part of what is hashed.
	if err := vault.CheckStore(e.Store); err != nil {
		return e, fmt.Errorf("entry %d: %w", e.Seq, err)
	}
	if err := vault.CheckKey(e.Key); err != nil {
		return e, fmt.Errorf("entry %d: %w", e.Seq, err)
	}
	return e, fill(e.Content[:], m.GetContentSha256(), "content_sha256")
}

// EntriesFromWire reads entries. Nothing is verified yet.
func EntriesFromWire(list []*backupsv1.Entry) ([]vault.Entry, error) {
	out := make([]vault.Entry, 0, len(list))
	for _, m := range list {
		e, err := EntryFromWire(m)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// HeadFromWire reads a head. Its signature is not verified yet: Verify does.
func HeadFromWire(m *backupsv1.SignedHead) (vault.SignedHead, error) {
	id, err := vault.ParseIdentity(m.GetIdentity())
	if err != nil {
		return vault.SignedHead{}, err
	}
	h := vault.SignedHead{Head: vault.Head{Identity: id, Seq: m.GetSeq(), AtMs: m.GetAtMs()}}
	if len(m.GetNonce()) > 0 {
		h.Nonce = make([]byte, vault.NonceSize)
		if err := fill(h.Nonce, m.GetNonce(), "nonce"); err != nil {
			return h, err
		}
	}
	for _, f := range []struct {
		into, from []byte
		name       string
	}{
		{h.Server[:], m.GetServerKey(), "server_key"},
		{h.Epoch[:], m.GetEpoch(), "epoch"},
		{h.Hash[:], m.GetHash(), "hash"},
		{h.Signature[:], m.GetSignature(), "signature"},
	} {
		if err := fill(f.into, f.from, f.name); err != nil {
			return h, err
		}
	}
	return h, nil
}

// ReceiptFromWire reads a receipt. Nothing is verified yet: Verify does.
func ReceiptFromWire(m *backupsv1.Receipt) (vault.Receipt, error) {
	var (
		r   vault.Receipt
		err error
	)
	if err := fill(r.Prev[:], m.GetPrevHash(), "prev_hash"); err != nil {
		return r, err
	}
	if r.Entries, err = EntriesFromWire(m.GetEntries()); err != nil {
		return r, err
	}
	r.Head, err = HeadFromWire(m.GetHead())
	return r, err
}

func fill(into, from []byte, name string) error {
	if len(from) != len(into) {
		return fmt.Errorf("%s has %d bytes, not %d", name, len(from), len(into))
	}
	copy(into, from)
	return nil
}

func quotaToWire(q vault.Quota) *backupsv1.Quota {
	return &backupsv1.Quota{
		Bytes: q.Bytes, Objects: q.Objects, ObjectBytes: q.ObjectBytes, DayWrites: q.DayWrites, DayBytes: q.DayBytes, HistoryBytes: q.HistoryBytes,
	}
}

func quotaFromWire(m *backupsv1.Quota) vault.Quota {
	return vault.Quota{
		Bytes: m.GetBytes(), Objects: m.GetObjects(), ObjectBytes: m.GetObjectBytes(),
		DayWrites: m.GetDayWrites(), DayBytes: m.GetDayBytes(), HistoryBytes: m.GetHistoryBytes(),
	}
}

func usageToWire(u vault.Usage) *backupsv1.Usage {
	return &backupsv1.Usage{Bytes: u.Bytes, Objects: u.Objects, DayWrites: u.DayWrites, DayBytes: u.DayBytes, HistoryBytes: u.HistoryBytes}
}
